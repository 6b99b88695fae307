"""Wrapping an existing `.tflite` or `.onnx` file as a release, unchanged."""

from __future__ import annotations

from pathlib import Path

from fleet.protocol.manifest import Lineage
from model_compiler import assembling, judging, naming, pack, precision, sources, tasking
from model_compiler.building import Artifact
from model_compiler.data import Dataset
from model_compiler.errors import InterfaceError, SourceError
from model_compiler.metrics import Metric
from model_compiler.pipeline import report
from model_compiler.request import CompileReport, CompileRequest
from model_compiler.variants import Target

REFERENCE = "reference"


def import_release(
    file: Path, request: CompileRequest, *, reference: Path | None = None, raw: bool = False
) -> CompileReport:
    """Measure a model file on the validation set and pack it as a release with one edge variant.

    Inputs and outputs are called as the request says, else as in the file; the data's arrays are paired by name. The
    first half of the validation inputs gives the drift reference, the second half its margin.

    Args:
        request: its calibration set, targets and source are not used.
        reference: the float model that the file was made from: what agreement and drop are measured against.
        raw: integers that the file gives are the outputs; else they are turned into the real values they stand for.

    Raises:
        SourceError: not a `.tflite` or `.onnx` file, or damaged.
        DataError, InterfaceError: the data, or the model's interface, has other inputs or outputs than the file.
        TargetError: the runtime refuses it, or its outputs are not finite.
        GateError: it misses the gate, or the agent's self-test refuses it.
    """
    pack.check_replaceable(request.out)
    metric = tasking.metric_of(request)
    target, model = _read(file)
    data, names = _named(request, target, model, metric)
    artifact = Artifact(f"{target.runtime}-{target.precision}", target, "edge", model)
    artifacts = [artifact]
    if reference is not None:
        artifacts.append(Artifact(REFERENCE, _read(reference)[0], "edge", _read(reference)[1]))
    ran, refused = judging.run(artifacts, data, names, metric, raw=raw, non_finite=request.loose())
    if refused:
        raise SourceError("; ".join(refused.values()), subject=str(file))
    bases = {artifact.name: REFERENCE} if reference is not None else {}
    judged = judging.judge(request, metric, ran, data, bases)
    kept, _ = judging.passing([item for item in judged if item.name == artifact.name])
    half = len(data) // 2
    parts = assembling.Parts(
        metric=metric, background=data.take(slice(half)), held_out=data.take(slice(half, None)), validation=data,
        labels=request.labels, gate=request.gate, lineage=Lineage(recipe=f"import {file.name}"),
        encoder=request.encoder, seed=request.seed, interface=request.interface, non_finite=request.loose(),
        task=tasking.task_of(request),
    )  # fmt: skip
    manifest, blobs = assembling.assemble(parts, kept)
    manifest, refusals = assembling.preflighted(manifest, blobs, request.pythons, request.progress)
    document = report(metric.name, manifest, kept, {}, refusals)
    pack.write_release(request.out, manifest, assembling.needed(manifest, blobs), document)
    return CompileReport(request.out, manifest, {}, document)


def _named(request: CompileRequest, target: Target, model: bytes, metric: Metric) -> tuple[Dataset, tuple[str, ...]]:
    """The data with its inputs called and ordered as in the release, and the outputs' names."""
    asked_in, asked_out = request.names()
    arrays = tuple(request.validation.inputs)
    if target.runtime == "onnx":
        own_in, own_out = sources.onnx_names(model)
        inputs = naming.input_names(arrays, own_in, asked_in or (own_in if len(own_in) == 1 else ()))
        outputs = naming.output_names(dict.fromkeys(own_out), asked_out, named=True, lone="")
        if len(own_out) > 1 and tuple(outputs.values()) != own_out:
            raise InterfaceError(
                f"the model's outputs are {', '.join(outputs.values())}; the file gives {', '.join(own_out)}",
                hint="an imported file stays as it is: compile it, or give it a model name of its own",
            )
    else:
        own_in, count = precision.litert_ports(model)
        known = own_in if len(own_in) == 1 or set(arrays) == set(own_in) else ()
        inputs = naming.input_names(arrays, known, asked_in)
        if len(known) > 1:  # devices pair a LiteRT file's tensors by place: the release has them in the file's order
            inputs = {name: inputs[name] for name in known}
        lone = naming.lone_output(metric.classes, tuple(inputs.values()))
        places = {f"output_{place}": None for place in range(count)}
        outputs = naming.output_names(places, asked_out, named=False, lone=lone)
    names = tuple(outputs.values())
    naming.check_release_names(tuple(inputs.values()), names)
    data = request.validation.renamed(inputs)
    if request.encoder is not None:
        naming.check_encoder(request.encoder, data.inputs)
    return data, names


def _read(file: Path) -> tuple[Target, bytes]:
    if file.suffix == ".onnx":
        data = sources.load_onnx(file)
        return Target("onnx", precision.of_onnx(data)), data
    if file.suffix != ".tflite":
        raise SourceError(f"{file}: neither .tflite nor .onnx", subject=str(file))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}", subject=str(file)) from error
    if data[4:8] != b"TFL3":
        raise SourceError(f"{file}: not a LiteRT model (the file identifier is missing)", subject=str(file))
    try:
        return Target("litert", precision.of_litert(data)), data
    except SourceError as error:
        raise SourceError(f"{file}: {error}", subject=str(file)) from error
