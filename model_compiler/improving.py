"""A second look at quantized variants that miss the gate: a search over plans, judged on the calibration inputs.

The validation set says only that a variant missed; which plan is better is decided on inputs that the
verdict never sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from fleet.protocol.manifest import Gate, Verdict
from model_compiler import runners, verdict
from model_compiler.building import Artifact, Prepared
from model_compiler.calibration import Method, Plan, Ranges
from model_compiler.data import Array, Dataset
from model_compiler.errors import TargetError
from model_compiler.judging import Judged
from model_compiler.metrics import Metric, Outputs, first, predicted
from model_compiler.search import Candidate, Found, search
from model_compiler.variants import Operator, quantizer

ROWS = 512  # of the calibration set, to judge plans on
RANKED_ROWS = 64  # to rank operators by
MOST_OPERATORS = 200


@dataclass(frozen=True)
class Task:
    """What plans of one variant are built from and judged by."""

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
    """The artifacts with better ones in the place of int8 variants that missed the gate.

    Returns:
        The artifacts, and for the report what was tried by variant.
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
        told[artifact.name] = _document(task, found)
        if found.plan is None or found.plan == Plan():
            better.append(artifact)
        else:
            better.append(replace(artifact, model=_built(task, found.plan), notes=(found.plan.describe(),)))
    return better, told


def _task(prepared: Prepared, artifact: Artifact, parent: Artifact) -> Task:
    """Without labels the float model's own answers are what is right."""
    data = prepared.calibration.take(slice(ROWS))
    names = prepared.outputs
    answers = runners.run(parent.name, parent.target.runtime, parent.model, data).outputs
    reference = dict(zip(names, answers, strict=True))
    labelled = data.y is not None and not (prepared.metric.classes and data.y.ndim != 1)
    own = predicted(first(reference)) if prepared.metric.classes else first(reference)
    gate = prepared.request.gate if labelled else msgspec.structs.replace(prepared.request.gate, min_metric=None)
    return Task(
        artifact=artifact, parent=parent.model, metric=prepared.metric, data=data,
        y=data.labels if labelled else own, reference=reference, calibration=prepared.calibration,
        gate=msgspec.structs.replace(gate, max_latency_ratio=None), known={},
    )  # fmt: skip


def _built(task: Task, plan: Plan) -> bytes:
    kind = quantizer(task.artifact.target.runtime)
    if plan.calibration not in task.known:
        arrays = list(task.calibration.inputs.values())
        task.known[plan.calibration] = kind.observed(task.parent, arrays, plan.calibration)
    return kind.quantize(task.parent, "int8", task.calibration.inputs, plan, known=task.known[plan.calibration])


def _judge(task: Task, plan: Plan) -> Candidate:
    try:
        model = _built(task, plan)
        answers = runners.run(task.artifact.name, task.artifact.target.runtime, model, task.data).outputs
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
        models[str(place)] = _built(task, Plan(method, everything - {operator.id}))
    data = task.data.take(slice(RANKED_ROWS))
    answers = runners.run_many(task.artifact.target.runtime, models, data)
    expected = first(task.reference)[: len(data)].astype(np.float64)
    spread = float(((expected - expected.mean()) ** 2).sum()) or 1.0
    return [
        (operator.id, float(((answers[str(place)].astype(np.float64) - expected) ** 2).sum()) / spread)
        for place, operator in enumerate(operators[:MOST_OPERATORS])
        if str(place) in answers
    ]


def _operators(task: Task) -> tuple[Operator, ...]:
    return quantizer(task.artifact.target.runtime).operators(task.parent)


def _document(task: Task, found: Found) -> dict[str, Any]:
    """For the report: the frontier, and the operators with what they cost."""
    kinds = {operator.id: operator.kind for operator in _operators(task)}
    return {
        "chosen": None if found.plan is None else found.plan.describe(),
        "tried": [
            {
                "plan": candidate.plan.describe() or "all operators in int8",
                "float_operators": sorted(candidate.plan.float_operators),
                "calibration": candidate.plan.calibration,
                "size_bytes": candidate.size_bytes,
                "value": candidate.value,
                "drop_points": candidate.drop_points,
                "agreement": candidate.agreement,
                "broken": list(candidate.broken),
            }
            for candidate in found.tried
        ],
        "sensitivity": [
            {"operator": name, "kind": kinds.get(name, ""), "error": error} for name, error in found.sensitivity
        ],
    }
