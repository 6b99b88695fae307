"""Small valid releases for tests: the blobs are short byte strings, the verdicts are made up.

The cloud variant is an ONNX file with the release's inputs and outputs and nothing between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, UnsetType

from fleet.protocol.manifest import (
    Blob,
    Gate,
    Manifest,
    SelfTest,
    SketchRef,
    Tensor,
    Variant,
    Verdict,
    encode_manifest,
)
from fleet.protocol.steps import AnyStep
from fleet.protocol.task import TaskSpec


def verdict(**changes: Any) -> Verdict:
    """A verdict of a good variant."""
    fields: dict[str, Any] = {
        "metric": "accuracy",
        "value": 0.95,
        "interval": (0.93, 0.97),
        "reference": 0.955,
        "drop_points": 0.5,
        "agreement": 0.99,
        "worst_class_drop": 0.01,
        "samples": 200,
        "size_bytes": 1000,
        "latency_us_p50": 20.0,
        "latency_us_p95": 30.0,
        "latency_ratio": 1.0,
    }
    return Verdict(**{**fields, **changes})


INPUTS = (Tensor(name="x", datatype="FP32", shape=(-1, 64)),)
OUTPUTS = (Tensor(name="logits", datatype="FP32", shape=(-1, 10)),)
DIGITS = tuple("0123456789")


def hollow_onnx(inputs: Sequence[str], outputs: Sequence[str], note: str = "") -> bytes:
    """An ONNX file (protobuf) with named inputs and outputs and no nodes; `note` makes it another file."""

    def field(number: int, value: bytes) -> bytes:
        size, length = len(value), b""
        while size >= 0x80:
            size, length = size >> 7, length + bytes([size & 0x7F | 0x80])
        return bytes([number << 3 | 2]) + length + bytes([size]) + value

    ports = [(11, name) for name in inputs] + [(12, name) for name in outputs]
    graph = field(2, b"hollow") + b"".join(field(number, field(1, name.encode())) for number, name in ports)
    return field(2, note.encode()) + field(7, graph)


def small_release(
    *,
    seed: int = 0,
    gate: Gate | None = None,
    sketch_id: str = "",
    verdict_changes: dict[str, Any] | None = None,
    inputs: tuple[Tensor, ...] = INPUTS,
    outputs: tuple[Tensor, ...] = OUTPUTS,
    labels: tuple[str, ...] = DIGITS,
    cloud: bytes | None = b"",
    edge_file: bytes = b"",
    encoder: bytes = b"encoder",
    requires: tuple[str, ...] = (),
    task: TaskSpec | UnsetType = UNSET,
    preprocess: tuple[AnyStep, ...] | UnsetType = UNSET,
    twin: bool | UnsetType = UNSET,
) -> tuple[bytes, dict[str, bytes]]:
    """Manifest bytes and blobs (SHA-256 -> bytes) of an edge and a cloud variant.

    `edge_file` and `cloud` are their files, by default some of their own; without the latter where `cloud` is None.
    `twin` is what the cloud variant's record says.
    """
    blobs: dict[str, bytes] = {}

    def blob(data: bytes) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        blobs[sha256] = data
        return Blob(sha256=sha256, size=len(data))

    sketch = None
    if sketch_id:
        sketch = SketchRef(sketch_id=sketch_id, encoder=blob(encoder), reference=blob(b"reference"), margin=0.1)
    theirs = cloud or hollow_onnx([t.name for t in inputs], [t.name for t in outputs], f"cloud model {seed}" * 50)
    measured = verdict(**(verdict_changes or {}))
    edge = Variant(
        name="litert-int8",
        runtime="litert",
        precision="int8",
        placement="edge",
        blob=blob(edge_file or b"edge model %d" % seed * 50),
        verdict=measured,
    )
    variants = [edge]
    if cloud is not None:
        variants.append(
            Variant(
                name="onnx-fp32",
                runtime="onnx",
                precision="fp32",
                placement="cloud",
                blob=blob(theirs),
                verdict=verdict(latency_ratio=20.0),
                twin=twin,
            )
        )
    manifest = Manifest(
        requires=requires,
        task=task,
        preprocess=preprocess,
        inputs=inputs,
        outputs=outputs,
        labels=labels,
        variants=tuple(variants),
        selftest=SelfTest(blob=blob(b"vectors"), vectors=8, tolerance={"litert-int8": 0.05}),
        sketch=sketch,
        gate=gate or Gate(max_drop_points=1.0, max_latency_ratio=2.0),
    )
    return encode_manifest(manifest), blobs
