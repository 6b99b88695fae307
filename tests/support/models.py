"""A tiny classifier whose answers tests can compute, as a release for every runtime.

logits = x · WEIGHTS + BIAS for x (n, 4) float32 and three classes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.ports import InstalledRelease
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol import drift_encoder, selftest, sketch
from fleet.protocol.manifest import (
    Blob,
    Deferral,
    Manifest,
    SelfTest,
    SketchRef,
    Tensor,
    Variant,
    Verdict,
    encode_manifest,
)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
WEIGHTS = np.array([[2, 0, -1], [0, 2, -1], [-1, 0, 2], [0.5, -0.5, 0]], np.float32)
BIAS = np.array([0.1, 0.0, -0.1], np.float32)
LABELS = ("ant", "bee", "cat")


def answer(x: np.ndarray) -> np.ndarray:
    """The classifier itself: (n, 4) → (n, 3)."""
    return (x @ WEIGHTS + BIAS).astype(np.float32)


def inputs(n: int, seed: int = 0) -> np.ndarray:
    """(n, 4) float32 in [-1, 1)."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, 4)).astype(np.float32)


def onnx_bytes(swap: bool = False, rows: int | str = "n") -> bytes:
    """The classifier as ONNX; `swap` exchanges the first two classes (a bad release), `rows` is its batch."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights, bias = (WEIGHTS[:, [1, 0, 2]], BIAS[[1, 0, 2]]) if swap else (WEIGHTS, BIAS)
    node = helper.make_node("Gemm", ["input", "w", "b"], ["logits"])
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [rows, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [rows, 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def litert_bytes(precision: str = "fp32") -> bytes:
    """The classifier as LiteRT, `fp32` or `int8`; made by `tests/fixtures/make_tiny.py`."""
    return (FIXTURES / f"tiny_{precision}.tflite").read_bytes()


def put(folder: Path, data: bytes) -> Blob:
    """Store bytes under their hash."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()
    (folder / digest).write_bytes(data)
    return Blob(sha256=digest, size=len(data))


def release(
    blobs: Path,
    *,
    model: str = "tiny",
    number: int = 1,
    data: bytes | None = None,
    runtime: str = "onnx",
    threshold: float | None = None,
    cloud: bool = True,
    tolerance: float = 1e-4,
) -> InstalledRelease:
    """A whole release in a folder of blobs: model, self-test vectors, sketch encoder and reference."""
    data = onnx_bytes() if data is None else data
    name = f"{runtime}-fp32"
    x = inputs(64)
    vectors = [
        selftest.Vector(
            inputs=(selftest.to_array("input", row[None]),),
            outputs={name: (selftest.to_array("logits", answer(row[None])),)},
        )
        for row in x[:8]
    ]
    encoder = drift_encoder.fit_encoder(x, tensor="input", dims=4, features=64)
    verdict = Verdict(
        metric="accuracy",
        value=1.0,
        interval=(0.9, 1.0),
        reference=1.0,
        drop_points=0.0,
        agreement=1.0,
        worst_class_drop=0.0,
        samples=64,
        size_bytes=len(data),
        latency_us_p50=10.0,
        latency_us_p95=20.0,
        latency_ratio=1.0,
    )
    blob = put(blobs, data)
    deferral = None if threshold is None else Deferral(temperature=1.0, threshold=threshold, target="test")
    edge = Variant(
        name=name,
        runtime=runtime,  # type: ignore[arg-type]
        precision="fp32",
        placement="edge",
        blob=blob,
        verdict=verdict,
        deferral=deferral,
    )
    variants = [edge]
    if cloud:
        theirs = blob if runtime == "onnx" else put(blobs, onnx_bytes())
        variants.append(
            Variant(name="cloud", runtime="onnx", precision="fp32", placement="cloud", blob=theirs, verdict=verdict)
        )
    manifest = Manifest(
        inputs=(Tensor(name="input", datatype="FP32", shape=(-1, 4)),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 3)),),
        labels=LABELS,
        variants=tuple(variants),
        selftest=SelfTest(blob=put(blobs, selftest.encode_vectors(vectors)), vectors=8, tolerance={name: tolerance}),
        sketch=SketchRef(
            sketch_id=drift_encoder.sketch_id(encoder),
            encoder=put(blobs, drift_encoder.encode_encoder(encoder)),
            reference=put(blobs, sketch.encode_sketch(sketch.sketch(encoder, x))),
            margin=0.0,
        ),
    )
    return InstalledRelease(model=model, number=number, manifest=manifest, variant=edge, blobs=blobs)


def installed(directory: Path, *, number: int = 1, **options: Any) -> HeldRelease:
    """A whole release in an agent's directory; `options` as of `release`."""
    made = release(directory / "blobs", number=number, **options)
    digest = Store(directory).put_manifest(encode_manifest(made.manifest))
    return HeldRelease(release=number, variant=made.variant.name, manifest=digest)
