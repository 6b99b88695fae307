"""Wrapping an existing `.tflite` or `.onnx` file as a release, unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from fleet.protocol.manifest import Lineage, Manifest, Tensor, Variant
from model_compiler import deferral, pack, precision, preflight, reference, runners, sources, vectors, verdict
from model_compiler.data import Dataset, check_labels
from model_compiler.errors import GateError, SourceError
from model_compiler.pipeline import RUNTIME_NAMES, tool_versions
from model_compiler.variants import Target


def import_release(file: Path, validation: Dataset, labels: tuple[str, ...], out: Path) -> Manifest:
    """Measure `file` on the validation set and pack it as a release with one edge variant.

    The first half of the validation inputs gives the drift reference, the second half its margin.

    Raises:
        SourceError: not a `.tflite` or `.onnx` file, or damaged.
        TargetError: the runtime refuses it, or its outputs are not finite (n, classes).
        GateError: the agent's self-test refuses it.
    """
    target, model = _read(file)
    name = f"{target.runtime}-{target.precision}"
    outputs = runners.outputs(name, target.runtime, model, validation.x)
    check_labels(validation, outputs.shape[1])
    latency = runners.latencies({name: (target.runtime, model)}, validation.x)[name]
    softmax = verdict.holds_logits(outputs)
    variant = Variant(
        name=name, runtime=target.runtime, precision=target.precision, placement="edge", blob=pack.blob_of(model),
        verdict=verdict.judge(
            outputs=outputs, reference=outputs, y=validation.y, size_bytes=len(model), latency=latency,
            reference_latency=latency,
        ),
        apply_softmax=softmax,
        deferral=deferral.fit(outputs, validation.y, None, deferral.DeferTarget(), apply_softmax=softmax),
        runtimes=(RUNTIME_NAMES[target.runtime],),
    )  # fmt: skip
    selftest, _, vector_data = vectors.build(validation.x, {name: outputs}, input_name="x", output_name="logits")
    half = len(validation) // 2
    drift, drift_data = reference.build(validation.x[:half], validation.x[half:], tensor="x", encoder=None, seed=0)
    datatype: Literal["INT8", "FP32"] = "INT8" if validation.x.dtype == np.int8 else "FP32"
    manifest = Manifest(
        inputs=(Tensor(name="x", datatype=datatype, shape=(-1, *validation.x.shape[1:])),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, outputs.shape[1])),),
        labels=labels or tuple(str(i) for i in range(outputs.shape[1])),
        variants=(variant,), selftest=selftest, sketch=drift,
        lineage=Lineage(recipe=f"import {file.name}", tools=tool_versions()),
    )  # fmt: skip
    blobs = [model, vector_data, *drift_data]
    why = preflight.refusal(manifest, variant, blobs, variant.runtimes[0])
    if why:
        raise GateError(f"{file}: {variant.runtimes[0]} refuses it: {why}", subject=str(file))
    pack.write_release(out, manifest, blobs, pack.report_json(manifest, {}))
    return manifest


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
