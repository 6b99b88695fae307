"""A second look at quantized variants that miss the gate: a search over plans, judged on the calibration inputs.

The validation set says only that a variant missed; which plan is better is decided on inputs that the
verdict never sees.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from fleet.protocol.manifest import Gate, Verdict
from model_compiler.build.artifacts import Artifact, float_model, quantizer
from model_compiler.build.calibration import Method, QuantizationPlan, Ranges
from model_compiler.build.prepared import Prepared
from model_compiler.build.targets import Operator, reason
from model_compiler.errors import DataError, TargetError
from model_compiler.evaluate import verdict
from model_compiler.evaluate.judging import Judged
from model_compiler.inputs.dataset import Array, Dataset
from model_compiler.metrics import Metric, Outputs, first, predicted
from model_compiler.running import runner
from model_compiler.search.plans import Candidate, SearchResult, search

ROWS = 512  # of the calibration set, to judge plans on
RANKED_ROWS = 64  # to rank operators by
MOST_OPERATORS = 200
TUNING_ROWS, EPOCHS = 2000, 20
MOST_TIMED = 8
ALL, TUNED = "all operators in int8", "fine-tuned with rounding in the loop"


@dataclass(frozen=True)
class Task:
    """The inputs that plans of one variant are built from and judged by."""

    artifact: Artifact
    parent: bytes
    metric: Metric
    data: Dataset
    y: Array
    reference: Outputs
    calibration: Dataset
    gate: Gate
    known: dict[Method, Ranges]


def improve(
    prepared: Prepared, artifacts: Sequence[Artifact], judged: Sequence[Judged]
) -> tuple[list[Artifact], dict[str, Any]]:
    """Put better variants in the place of int8 ones that missed the gate.

    Returns:
        The artifacts, and for the report the trials by variant.
    """
    parents = {a.name: a for a in artifacts}
    missed = {item.name: item for item in judged if item.ran.artifact.target.precision == "int8" and item.broken}
    better: list[Artifact] = []
    told: dict[str, Any] = {}
    for artifact in artifacts:
        if artifact.name not in missed:
            better.append(artifact)
            continue
        prepared.request.progress(f"searching a better {artifact.name}")
        task = _task(prepared, artifact, parents[f"{artifact.target.runtime}-fp32"])
        found = search(partial(_judge, task), partial(_rank, task))
        chosen = artifact
        if found.plan is not None and found.plan != QuantizationPlan():
            chosen = replace(artifact, model=_built(task, found.plan), notes=(found.plan.describe(),))
        tuned: Candidate | None = None
        if prepared.module is not None and (found.plan is None or found.plan.float_operators):
            tuned, model = _tuned(prepared, task)
            if not tuned.broken and (found.plan is None or len(model) < len(chosen.model)):
                chosen = replace(artifact, model=model, notes=(TUNED,))
        told[artifact.name] = _document(task, found, tuned, chosen, _latencies(task, found))
        better.append(chosen)
    return better, told


def _tuned(prepared: Prepared, task: Task) -> tuple[Candidate, bytes]:
    """All operators in int8, of weights that were fine-tuned with rounding in the loop.

    The recipe's training data where there is some, else the calibration inputs with the float model's answers.
    """
    from model_compiler import qat

    prepared.request.progress(f"fine-tuning for {task.artifact.name}")
    data = (prepared.tuning or task.calibration).take(slice(TUNING_ROWS))
    labelled = data.y is not None and prepared.metric.classes and data.y.ndim == 1
    assert prepared.module is not None  # checked by the caller
    try:
        module = qat.finetune(
            prepared.module, data.inputs, data.y if labelled else None, epochs=EPOCHS, seed=prepared.request.seed
        )
        parent = float_model(replace(prepared, module=module), f"{task.artifact.target.runtime}-fp32")
        again = replace(task, parent=parent, known={})
        return _judge(again, QuantizationPlan()), _built(again, QuantizationPlan())
    except (TargetError, DataError) as error:
        return Candidate(QuantizationPlan(), 0, 0.0, 0.0, 0.0, (str(error),)), b""


def _task(prepared: Prepared, artifact: Artifact, parent: Artifact) -> Task:
    """Without labels the float model's own answers are what is right."""
    data = prepared.calibration.take(slice(ROWS))
    names = prepared.outputs
    answers = runner.run(parent.name, parent.target.runtime, parent.model, data).outputs
    reference = dict(zip(names, answers, strict=True))
    labelled = data.y is not None and not (prepared.metric.classes and data.y.ndim != 1)
    own = predicted(first(reference)) if prepared.metric.classes else first(reference)
    gate = prepared.request.gate if labelled else msgspec.structs.replace(prepared.request.gate, min_metric=None)
    return Task(
        artifact=artifact,
        parent=parent.model,
        metric=prepared.metric,
        data=data,
        y=data.labels if labelled else own,
        reference=reference,
        calibration=prepared.calibration,
        gate=msgspec.structs.replace(gate, max_latency_ratio=None),
        known={},
    )


def _built(task: Task, plan: QuantizationPlan) -> bytes:
    kind = quantizer(task.artifact.target.runtime)
    if plan.calibration not in task.known:
        arrays = list(task.calibration.inputs.values())
        # Runtimes and numpy raise what they like; this is the boundary that names the target.
        try:
            task.known[plan.calibration] = kind.observed(task.parent, arrays, plan.calibration)
        except Exception as error:
            raise TargetError(f"{task.artifact.name}: {reason(error)}", subject=task.artifact.name) from error
    return kind.quantize(task.parent, "int8", task.calibration.inputs, plan, known=task.known[plan.calibration])


def _judge(task: Task, plan: QuantizationPlan) -> Candidate:
    try:
        model = _built(task, plan)
        answers = runner.run(task.artifact.name, task.artifact.target.runtime, model, task.data).outputs
    except TargetError as error:
        return Candidate(plan, 0, float("nan"), float("inf"), 0.0, (str(error),))
    outputs = dict(zip(task.reference, answers, strict=True))
    free = verdict.Figures(len(model), 1.0, 1.0)
    found: Verdict = verdict.judge(task.metric, outputs, task.reference, task.y, cost=free, reference_cost=free)
    return Candidate(
        plan, len(model), found.value, found.drop_points, found.agreement, tuple(task.gate.broken_by(found))
    )


def _rank(task: Task, method: Method) -> list[tuple[str, float]]:
    """Each operator's sensitivity: the output's relative squared error when it alone is quantized."""
    operators = _operators(task)
    everything = frozenset(operator.id for operator in operators)
    models = {}
    for place, operator in enumerate(operators[:MOST_OPERATORS]):
        with contextlib.suppress(TargetError):  # it cannot be quantized alone, so nothing is known of it
            models[str(place)] = _built(task, QuantizationPlan(method, everything - {operator.id}))
    data = task.data.take(slice(RANKED_ROWS))
    answers = runner.run_many(task.artifact.target.runtime, models, data)
    expected = first(task.reference)[: len(data)].astype(np.float64)
    spread = float(((expected - expected.mean()) ** 2).sum()) or 1.0
    errors = {place: float(((array.astype(np.float64) - expected) ** 2).sum()) for place, array in answers.items()}
    return [(operator.id, errors.get(str(place), 0.0) / spread) for place, operator in enumerate(operators)]


def _operators(task: Task) -> tuple[Operator, ...]:
    return quantizer(task.artifact.target.runtime).operators(task.parent)


def _latencies(task: Task, found: SearchResult) -> dict[QuantizationPlan, float]:
    """p50 at batch 1 in µs of the plans on the frontier, measured in turns."""
    plans = [candidate.plan for candidate in found.frontier()[:MOST_TIMED]]
    models = {str(place): _built(task, plan) for place, plan in enumerate(plans)}
    runtime = task.artifact.target.runtime
    timed = runner.latencies({name: (runtime, model) for name, model in models.items()}, task.data)
    return {plan: timed[str(place)].p50 for place, plan in enumerate(plans)}


def _document(
    task: Task, found: SearchResult, tuned: Candidate | None, chosen: Artifact, timed: dict[QuantizationPlan, float]
) -> dict[str, Any]:
    """For the report: the frontier, and the operators with what they cost."""
    kinds = {operator.id: operator.kind for operator in _operators(task)}
    best = set(found.frontier())
    tried = [
        _told(candidate, on_frontier=candidate in best) | {"latency_us_p50": timed.get(candidate.plan)}
        for candidate in found.tried
    ]
    if tuned is not None:
        tried.append(_told(tuned, on_frontier=not tuned.broken) | {"plan": TUNED, "latency_us_p50": None})
    return {
        "chosen": ", ".join(chosen.notes) or (None if found.plan is None else ALL),
        "tried": tried,
        "sensitivity": [
            {"operator": name, "kind": kinds.get(name, ""), "error": error} for name, error in found.sensitivity
        ],
    }


def _told(candidate: Candidate, *, on_frontier: bool) -> dict[str, Any]:
    return {
        "plan": candidate.plan.describe() or ALL,
        "float_operators": sorted(candidate.plan.float_operators),
        "calibration": candidate.plan.calibration,
        "size_bytes": candidate.size_bytes,
        "value": candidate.value,
        "drop_points": candidate.drop_points,
        "agreement": candidate.agreement,
        "on_frontier": on_frontier,
        "broken": list(candidate.broken),
    }
