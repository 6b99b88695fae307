"""Building variants: one module per runtime. Each takes a source and returns a model file's bytes."""

from __future__ import annotations

from typing import Final, NamedTuple

from fleet.protocol.manifest import Precision, Runtime


class Target(NamedTuple):
    """What a variant's name stands for."""

    runtime: Runtime
    precision: Precision


TARGETS: Final[dict[str, Target]] = {
    "litert-fp32": Target("litert", "fp32"),
    "litert-int8": Target("litert", "int8"),
    "litert-int8-dynamic": Target("litert", "int8-dynamic"),
    "onnx-fp32": Target("onnx", "fp32"),
    "onnx-int8": Target("onnx", "int8"),
}
