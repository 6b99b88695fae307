"""Wrapping an existing `.tflite` or `.onnx` file as a release, unchanged."""

from __future__ import annotations

from pathlib import Path

from fleet.protocol.manifest import Lineage
from model_compiler import assembling, judging, metrics, pack, precision, sources
from model_compiler.building import Artifact
from model_compiler.errors import SourceError
from model_compiler.pipeline import report
from model_compiler.request import CompileReport, CompileRequest
from model_compiler.variants import Target

REFERENCE = "reference"


def import_release(
    file: Path, request: CompileRequest, *, reference: Path | None = None, raw: bool = False
) -> CompileReport:
    """Measure a model file on the validation set and pack it as a release with one edge variant.

    The first half of the validation inputs gives the drift reference, the second half its margin.

    Args:
        request: its calibration set, targets and source are not used.
        reference: the float model that the file was made from: what agreement and drop are measured against.
        raw: integers that the file gives are the outputs; else they are turned into the real values they stand for.

    Raises:
        SourceError: not a `.tflite` or `.onnx` file, or damaged.
        TargetError: the runtime refuses it, or its outputs are not finite.
        GateError: it misses the gate, or the agent's self-test refuses it.
    """
    pack.check_replaceable(request.out)
    data = request.validation
    metric = request.metric or metrics.default(data.labels)
    target, model = _read(file)
    artifact = Artifact(f"{target.runtime}-{target.precision}", target, "edge", model)
    artifacts = [artifact]
    if reference is not None:
        artifacts.append(Artifact(REFERENCE, _read(reference)[0], "edge", _read(reference)[1]))
    names = _output_names(target, model, "logits" if metric.classes else "output")
    ran, refused = judging.run(artifacts, data, names, metric, raw=raw)
    if refused:
        raise SourceError("; ".join(refused.values()), subject=str(file))
    bases = {artifact.name: REFERENCE} if reference is not None else {}
    judged = judging.judge(request, metric, ran, data, bases)
    kept, _ = judging.passing([item for item in judged if item.name == artifact.name])
    half = len(data) // 2
    parts = assembling.Parts(
        metric=metric, background=data.take(slice(half)), held_out=data.take(slice(half, None)), validation=data,
        labels=request.labels, gate=request.gate, lineage=Lineage(recipe=f"import {file.name}"),
        encoder=request.encoder, seed=request.seed,
    )  # fmt: skip
    manifest, blobs = assembling.assemble(parts, kept)
    manifest, refusals = assembling.preflighted(manifest, blobs, request.pythons, request.progress)
    document = report(metric.name, manifest, kept, {}, refusals)
    pack.write_release(request.out, manifest, assembling.needed(manifest, blobs), document)
    return CompileReport(request.out, manifest, {}, document)


def _output_names(target: Target, model: bytes, lone: str) -> tuple[str, ...]:
    """The file's own names where it has several outputs."""
    if target.runtime == "onnx":
        names = sources.onnx_names(model)[1]
    else:
        names = tuple(f"output_{place}" for place in range(precision.litert_outputs(model)))
    return (lone,) if len(names) == 1 else names


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
