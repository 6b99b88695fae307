"""Running artifacts and judging them: verdict, gate, calibrated deferral."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import UNSET, UnsetType, structs

from fleet.protocol.manifest import Deferral, Ports, Variant, Verdict
from model_compiler.build.artifacts import Artifact, float_bases
from model_compiler.errors import DataError, GateError, NotFiniteError, TargetError
from model_compiler.evaluate import deferral, measurements, rightness, tasking, twins, verdict
from model_compiler.inputs.dataset import Array, Dataset, check_labels
from model_compiler.inputs.preprocessing import NO_STEPS, Preparation
from model_compiler.inputs.release_folder import blob_of
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import Metric, Outputs, first, predicted, table
from model_compiler.running import runner
from model_compiler.running.runner import VariantProfile


@dataclass(frozen=True)
class Ran:
    """An artifact and its outputs on the validation set, by name (n, …); `sizes` of those that were filled up, as in
    `runner.Run`."""

    artifact: Artifact
    outputs: Outputs
    profile: VariantProfile
    sizes: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """An artifact with its verdict; `broken` are the gate's terms that it breaks, in words; `twin` as in `Variant`."""

    ran: Ran
    verdict: Verdict
    recalls: dict[int, float]
    softmax: bool
    deferral: Deferral | None
    broken: tuple[str, ...]
    twin: bool | UnsetType = UNSET

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.ran.artifact.name

    def variant(self) -> Variant:
        """As the manifest says it; which runtimes take it is found out later."""
        artifact = self.ran.artifact
        return Variant(
            name=artifact.name,
            runtime=artifact.target.runtime,
            precision=artifact.target.precision,
            placement=artifact.placement,
            blob=blob_of(artifact.model),
            verdict=self.verdict,
            apply_softmax=self.softmax,
            deferral=self.deferral,
            ports=_ports(self.ran),
            twin=self.twin,
        )


def _ports(ran: Ran) -> Ports | UnsetType:
    """Return the places of the release's tensors in a LiteRT file that names them otherwise; else unset."""
    profile, names = ran.profile, tuple(ran.outputs)
    theirs = [tensor.name for tensor in profile.outputs]
    order = theirs if set(theirs) == set(names) else list(names)  # how `_named` read them
    own = [tensor.signature or tensor.plain_name for tensor in (*profile.inputs, *profile.outputs)]
    alone = len(profile.inputs) == len(profile.outputs) == 1
    if ran.artifact.target.runtime != "litert" or alone or own == [*profile.places, *order]:
        return UNSET
    return Ports(inputs=profile.places, outputs={name: profile.output_places[order.index(name)] for name in names})


def run(
    artifacts: Sequence[Artifact],
    data: Dataset,
    names: tuple[str, ...],
    metric: Metric,
    *,
    non_finite: Collection[str] = (),
    preparation: Preparation = NO_STEPS,
) -> tuple[list[Ran], dict[str, str]]:
    """Run every artifact over the validation set, each in a child of its own.

    Args:
        names: the outputs'; a file with the same names is read by them, another in its own order.
        non_finite: outputs that may hold NaN and infinity; every other one is refused with them.
        preparation: the steps between the data, which is what applications send, and the files.

    Returns:
        Those that answered, and why the others did not.

    Raises:
        TargetError: not one answered, or the cloud's did not.
        DataError: the labels do not fit the outputs.
    """
    ran: list[Ran] = []
    refused: dict[str, str] = {}
    strange: set[str] = set()
    hint = ""
    for artifact in artifacts:
        try:
            found = _answers(artifact, data, preparation)
            outputs = _named(artifact, found, found.outputs, names)
            sizes = _named(artifact, found, found.sizes, names)
            for name, values in outputs.items():
                if name not in non_finite:
                    runner.check_finite(artifact.name, name, values)
        except TargetError as error:
            if artifact.placement == "cloud":
                raise
            refused[artifact.name], hint = str(error), error.hint
            strange |= {artifact.name} if isinstance(error, NotFiniteError) else set()
            continue
        ran.append(Ran(artifact, outputs, found.profile, {name: each for name, each in sizes.items() if len(each)}))
    ran = _without_strange_bases(ran, float_bases(artifacts), strange, refused)
    if not any(item.artifact.placement == "edge" for item in ran):
        raise TargetError("no variant runs: " + "; ".join(refused.values()), hint=hint)
    if metric.classes:
        _check_classes(data.labels, ran[0].outputs)
    return ran, refused


def _check_classes(y: Array, outputs: Outputs) -> None:
    """Raise DataError when labels are not the first output's classes; with several, another may hold the scores."""
    try:
        check_labels(y, table(first(outputs)).shape[1])
    except DataError as error:
        name, *others = outputs
        if not others:
            raise
        hint = error.hint or f"the first output is the scored one; the others are {', '.join(others)}: --output NAME"
        raise DataError(f"output {name!r}: {error}", hint=hint) from error


def _without_strange_bases(
    ran: Sequence[Ran], bases: Mapping[str, str], strange: Collection[str], refused: dict[str, str]
) -> list[Ran]:
    """Those whose float variant is not one of the `strange`, which answer NaN; `refused` gets the others.

    Integers have no NaN: a quantized variant of such a model answers numbers that mean nothing.
    """
    lost = {item.artifact.name: base for item in ran if (base := bases.get(item.artifact.name, "")) in strange}
    refused |= {name: f"{name}: {base}, which it was made from, answers NaN or infinity" for name, base in lost.items()}
    return [item for item in ran if item.artifact.name not in lost]


def _answers(artifact: Artifact, data: Dataset, preparation: Preparation) -> runner.Run:
    """As they are: NaN and infinity are looked for where it is known which outputs may hold them."""
    target, wanted = artifact.target, artifact.wanted
    return runner.run(
        artifact.name, target.runtime, artifact.model, data, wanted=wanted, finite=False, preparation=preparation
    )


def _named(artifact: Artifact, found: runner.Run, arrays: Sequence[Array], names: tuple[str, ...]) -> dict[str, Array]:
    """Arrays of the outputs, in the file's order, by name; a cloud variant's several are called as the release's, or it
    is not the same model."""
    theirs = [tensor.name for tensor in found.profile.outputs]
    if set(theirs) == set(names):
        by_name = dict(zip(theirs, arrays, strict=True))
        return {name: by_name[name] for name in names}
    if len(theirs) != len(names) or (artifact.placement == "cloud" and len(names) > 1):
        raise TargetError(
            f"{artifact.name}: its outputs are {', '.join(theirs)}; the release's are {', '.join(names)}",
            subject=artifact.name,
            hint="export it with these names (torch.onnx.export: output_names)",
        )
    return dict(zip(names, arrays, strict=True))


def judge(
    request: CompileRequest,
    metric: Metric,
    ran: Sequence[Ran],
    data: Dataset,
    bases: Mapping[str, str],
    preparation: Preparation = NO_STEPS,
) -> list[Judged]:
    """The verdict on each, with its gate and its deferral.

    Args:
        request: its gate, target of deferral and kept measurements are used.
        metric: what outputs are measured by.
        ran: those that answered.
        data: the labelled set that they were asked.
        bases: by name the one that it is measured against, by default itself.
        preparation: the front and steps between the data and the files.

    Raises:
        DataError: the metric cannot be computed from these outputs.
        TargetError: one of them cannot be timed.
    """
    request.progress("measuring latency")
    costs = measurements.figures(
        [r.artifact for r in ran],
        {r.artifact.name: r.profile for r in ran},
        data,
        request.measurements,
        preparation,
    )
    by_name = {item.artifact.name: item for item in ran}
    cloud = next((r.outputs for r in ran if r.artifact.placement == "cloud"), None)
    found = []
    for item in ran:
        edge = item.artifact.placement == "edge"
        base = by_name.get(bases.get(item.artifact.name, ""), item)
        measured = verdict.judge(
            metric,
            item.outputs,
            base.outputs,
            data.labels,
            cost=costs[item.artifact.name],
            reference_cost=costs[base.artifact.name],
            bound=request.gate.by_bound,
        )
        measured = _with_notes(measured, item.artifact.notes)
        measured, fitted = _deferral(request, metric, item, measured, data.labels, cloud) if edge else (measured, None)
        judged = _judged(item, measured, metric, data.labels, request, fitted)
        found.append(judged if edge else replace(judged, twin=_twin(item, ran)))
    return found


def _twin(cloud: Ran, ran: Sequence[Ran]) -> bool | UnsetType:
    """Return whether a cloud variant answers as a float model for devices does; unset where none tells."""
    floats = [item for item in ran if item.artifact.placement == "edge" and item.artifact.target.precision == "fp32"]
    found = {twins.is_twin(item.outputs, cloud.outputs) for item in floats} - {None}
    return any(found) if found else UNSET


def _judged(
    item: Ran, measured: Verdict, metric: Metric, y: Array, request: CompileRequest, fitted: Deferral | None
) -> Judged:
    edge = item.artifact.placement == "edge"
    return Judged(
        ran=item,
        verdict=measured,
        recalls=verdict.recalls(item.outputs, y) if metric.classes else {},
        softmax=_ranks(metric, item.outputs) and verdict.holds_logits(first(item.outputs)),
        deferral=fitted,
        broken=tuple(request.gate.broken_by(measured)) if edge else (),
    )


def _ranks(metric: Metric, outputs: Outputs) -> bool:
    """Return whether the first output ranks several classes."""
    scores = first(outputs)
    return metric.classes and scores.ndim == 2 and scores.shape[1] > 1


def _deferral(
    request: CompileRequest, metric: Metric, item: Ran, measured: Verdict, y: Array, cloud: Outputs | None
) -> tuple[Verdict, Deferral | None]:
    """Fit the confidence below which the variant asks the cloud, by its task; else add a note why there is none."""
    spec = tasking.task_of(request)
    if spec is None:
        if not _ranks(metric, item.outputs):
            return measured, None
        softmax = verdict.holds_logits(first(item.outputs))
        theirs = predicted(first(cloud)) if cloud is not None else None
        fitted = deferral.fit(first(item.outputs), y, theirs, request.defer, apply_softmax=softmax)
        return _with_target(measured, fitted, request)
    labels = request.labels or (request.interface.labels if request.interface is not None else ())
    task, found = tasking.reading(spec, labels, item.outputs)
    if not found.confidence:
        why = f"no deferral: a {spec.name} says no confidence; name an output that does: --task {spec.name}:confidence="
        return _with_notes(measured, (f"{why}NAME",)), None
    right = rightness.right(task, found.answers, y)
    if right is None:
        why = f"no deferral: nobody says whether one answer of a {spec.name} is right"
        return _with_notes(measured, (why,)), None
    theirs = None if cloud is None else rightness.right(task, tasking.reading(spec, labels, cloud)[1].answers, y)
    return _with_target(measured, deferral.fit_sure(np.array(found.confidence), right, theirs, request.defer), request)


def _with_target(measured: Verdict, fitted: Deferral, request: CompileRequest) -> tuple[Verdict, Deferral]:
    """A target that nobody can promise is told, not signed."""
    why = deferral.unmet(fitted, request.defer)
    return _with_notes(measured, (why,) if why else ()), fitted


def _with_notes(measured: Verdict, notes: tuple[str, ...]) -> Verdict:
    return structs.replace(measured, notes=(*measured.notes, *notes)) if notes else measured


def passing(judged: Sequence[Judged]) -> tuple[list[Judged], dict[str, str]]:
    """Those that meet the gate, and why the others do not; raises GateError when no edge variant does."""
    kept = [item for item in judged if not item.broken]
    left_out = {item.name: "misses the gate: " + "; ".join(item.broken) for item in judged if item.broken}
    if not any(item.ran.artifact.placement == "edge" for item in kept):
        raise GateError("no variant meets the gate: " + "; ".join(f"{n} {why}" for n, why in left_out.items()))
    return kept, left_out
