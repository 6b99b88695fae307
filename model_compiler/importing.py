"""Wrapping an existing `.tflite` or `.onnx` file as a release, unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from fleet.protocol.manifest import Lineage
from fleet.protocol.task import DETECTION
from fleet.protocol.tensors import to_bytes
from fleet.runtimes.tensors import FileTensor
from model_compiler.build.artifacts import CLOUD, Artifact
from model_compiler.build.preprocessed import ApplicationData, asked_of, behind, check_kinds
from model_compiler.build.targets import TARGETS, VariantTarget
from model_compiler.errors import SourceError
from model_compiler.evaluate import judging, tasking
from model_compiler.inputs import naming, ports, precision, sources
from model_compiler.inputs.dataset import Array, Dataset
from model_compiler.inputs.ports import Ports
from model_compiler.inputs.preprocessing import NO_STEPS
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import Metric
from model_compiler.package import assembling, pack
from model_compiler.report.document import CompileReport, document_of, files
from model_compiler.running.runner import Wanted

REFERENCE = "reference"


def import_release(
    file: Path, request: CompileRequest, *, reference: Path | None = None, raw: bool = False
) -> CompileReport:
    """Measure a model file on the validation set and pack it as a release with one edge variant, and the cloud's.

    Inputs and outputs are called as the request says, else as in the file; the data's arrays are paired by name. They
    have the file's datatypes and shapes, variable sizes included. An array with as many axes as the file's input holds
    a sample in each row; one with an axis more holds a whole input in each (a scalar, a state). One half of the
    validation inputs gives the drift reference, the other half its margin (`halves`).

    Args:
        file: `.tflite` or `.onnx`.
        request: its calibration set, targets and source are not used; `outputs` choose among those of the file.
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
    check_kinds(request)
    given = asked_of(request) if request.prepares else None
    fitted = _fitted(request if given is None else behind(request, given), target, model, metric)
    asked = given or ApplicationData(fitted.data, fitted.data, NO_STEPS)
    wanted = replace(fitted.wanted, raw=raw)
    artifact = Artifact(f"{target.runtime}-{target.precision}", target, "edge", model, wanted=wanted)
    artifacts = [artifact, *_beside(request, reference, fitted, artifact)]
    data, preparation = asked.validation, asked.preparation
    ran, refused = judging.run(
        artifacts, data, fitted.outputs, metric, non_finite=request.loose(), preparation=preparation
    )
    if refused:
        raise SourceError("; ".join(refused.values()), subject=str(file))
    bases = {artifact.name: REFERENCE} if reference is not None else {}
    judged = judging.judge(request, metric, ran, data, bases, preparation)
    kept, _ = judging.passing([item for item in judged if item.name != REFERENCE])
    background, held_out = (data.take(rows) for rows in halves(data, request.seed, classes=metric.classes))
    named = dataclasses.replace(request, lineage=Lineage(recipe=f"import {file.name}"))
    parts = assembling.Parts(named, metric, background, held_out, data, preparation)
    manifest, blobs = assembling.assemble(parts, kept)
    manifest, refusals = assembling.preflighted(manifest, blobs, request.pythons, request.progress)
    document = document_of(metric.name, manifest, kept, {}, refusals)
    bare, listed = assembling.for_devices(manifest, blobs, request.defer.describe())
    pack.write_release(request.out, bare, listed, files(document))
    return CompileReport(request.out, manifest, {}, document)


def halves(data: Dataset, seed: int, *, classes: bool) -> tuple[Array, Array]:
    """Draw two halves of the rows that are alike, and return their numbers, each in order; the first is the smaller
    one.

    Files are often sorted by class or by time: their first and second half are of different origin, and a margin taken
    between them would let every drift pass. So rows are drawn by `seed`, of each class alike. Rows with the same
    inputs fall on one side, or the halves would look more alike than two samples are.
    """
    keys, first, group = _groups(data)
    order = np.random.default_rng(seed).permutation(len(keys))
    if classes and data.y is not None and data.y.ndim == 1:  # by class, and at random within each
        order = order[np.argsort(data.y[first][order], kind="stable")]
    side = np.zeros(len(keys), bool)
    side[order[::2]] = True
    if int(np.bincount(group, minlength=len(keys))[side].sum()) * 2 < len(data):
        side = ~side
    return np.flatnonzero(~side[group]), np.flatnonzero(side[group])


def _groups(data: Dataset) -> tuple[list[bytes], Array, Array]:
    """Distinct inputs: their digests, the first row of each, and which of them each row is."""
    digests = [
        hashlib.sha256(b"".join(to_bytes(array[row : row + 1]) for array in data.inputs.values())).digest()
        for row in range(len(data))
    ]
    places: dict[bytes, int] = {}
    group = np.array([places.setdefault(digest, len(places)) for digest in digests], np.int64)
    first = np.unique(group, return_index=True)[1]
    return list(places), first, group


@dataclass(frozen=True)
class _Fitted:
    """The data with its inputs called, ordered and typed as in the release, and the file's `tensors` that take them;
    the outputs' names, and which they are."""

    data: Dataset
    tensors: dict[str, FileTensor]
    outputs: tuple[str, ...]
    wanted: Wanted


def _fitted(request: CompileRequest, target: VariantTarget, model: bytes, metric: Metric) -> _Fitted:
    found = ports.read(target.runtime, model)
    inputs = _inputs(request, target, found)
    outputs, picked = _outputs(request, target, found, metric, tuple(inputs.values()))
    naming.check_release_names(tuple(inputs.values()), outputs)
    tensors = ports.takers(tuple(inputs.values()), found.inputs)
    known = request.interface
    kept = {tensor.name: tensor.datatype for tensor in known.inputs} if known is not None else {}
    data = ports.fit(request.validation.renamed(inputs), tensors, kept)
    if request.encoder is not None:
        naming.check_encoder(request.encoder, data.inputs)
    singles = known is not None and any(tensor.datatype == "FP32" for tensor in known.outputs)
    spec = tasking.task_of(request)
    wanted = Wanted(
        outputs=tuple(tensor.plain_name for tensor in picked),
        precise=not singles,
        filled=spec is not None and spec.name == DETECTION and not spec.logits,  # of a logit, 0 is no low score
    )
    return _Fitted(data, tensors, outputs, wanted)


def _inputs(request: CompileRequest, target: VariantTarget, found: Ports) -> dict[str, str]:
    """For each input of the data its name in the release, in the release's order."""
    asked, _ = request.names()
    arrays, own = tuple(request.validation.inputs), tuple(tensor.plain_name for tensor in found.inputs)
    if target.runtime == "onnx":
        return naming.input_names(arrays, own, asked or (own if len(own) == 1 else ()))
    known = own if found.named and (len(own) == 1 or set(arrays) == set(own)) else ()
    inputs = naming.input_names(arrays, known, asked)
    if len(known) > 1:  # devices pair a LiteRT file's tensors by place: the release has them in the file's order
        inputs = {name: inputs[name] for name in known}
    return inputs


def _outputs(
    request: CompileRequest, target: VariantTarget, found: Ports, metric: Metric, inputs: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[FileTensor, ...]]:
    """The outputs' names in the release, and the file's tensors that they are.

    Names of the file choose among its outputs, and order them. Other names are given to a lone output, or to those of a
    LiteRT file, which converters number.
    """
    _, asked = request.names()
    own = tuple(tensor.plain_name for tensor in found.outputs)
    choosing = len(own) > 1 and bool(asked) and (target.runtime == "onnx" or not set(asked).isdisjoint(own))
    picked = ports.chosen(found.outputs, tuple(asked) if choosing or len(asked) not in (0, len(own)) else ())
    if metric.classes:
        ports.check_scores(picked, found.outputs)
    if choosing:
        return tuple(asked), picked
    if target.runtime == "onnx":
        names = naming.output_names(dict.fromkeys(own), asked, named=True, lone="")
    else:
        places = {f"output_{place}": None for place in range(len(own))}
        names = naming.output_names(places, asked, named=False, lone=naming.lone_output(metric.classes, inputs))
    return tuple(names.values()), picked


def _beside(request: CompileRequest, reference: Path | None, fitted: _Fitted, edge: Artifact) -> list[Artifact]:
    """The float model that the file was made from, and the cloud variant."""
    found = []
    if reference is not None:
        target, model = _read(reference)
        wanted = replace(edge.wanted, real=_meant(fitted, ports.read(target.runtime, model)))
        found.append(Artifact(REFERENCE, target, "edge", model, wanted=wanted))
    if request.cloud == edge.model:  # kept as it is, so that it is known for the file that devices run
        found.append(Artifact(CLOUD, TARGETS["onnx-fp32"], "cloud", edge.model, wanted=edge.wanted))
    elif request.cloud is not None:
        model = sources.cloud_model(request.cloud, tuple(fitted.data.inputs), fitted.outputs)
        found.append(Artifact(CLOUD, TARGETS["onnx-fp32"], "cloud", model, wanted=Wanted(filled=fitted.wanted.filled)))
    return found


def _meant(fitted: _Fitted, reference: Ports) -> dict[str, tuple[float, int]]:
    """The meaning of the integers that the file gets, by its input, where its reference takes real values."""
    takers = {name: tensor for name, tensor in fitted.tensors.items() if tensor.scale}
    quantized = {name: tensor for name, tensor in takers.items() if fitted.data.inputs[name].dtype.kind in "iu"}
    theirs = ports.takers(tuple(fitted.tensors), reference.inputs)
    return {
        name: (tensor.scale, tensor.zero_point)
        for name, tensor in quantized.items()
        if name in theirs and theirs[name].datatype.startswith("FP")
    }


def _read(file: Path) -> tuple[VariantTarget, bytes]:
    if file.suffix == ".onnx":
        data = sources.load_onnx(file)
        return VariantTarget("onnx", precision.of_onnx(data)), data
    if file.suffix != ".tflite":
        raise SourceError(f"{file}: neither .tflite nor .onnx", subject=str(file))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}", subject=str(file)) from error
    if data[4:8] != b"TFL3":
        raise SourceError(f"{file}: not a LiteRT model (the file identifier is missing)", subject=str(file))
    try:
        return VariantTarget("litert", precision.of_litert(data)), data
    except SourceError as error:
        raise SourceError(f"{file}: {error}", subject=str(file)) from error
