"""Building variants: one module per runtime. Each takes a source and returns a model file's bytes."""

from __future__ import annotations

from typing import Final, NamedTuple

from fleet.protocol.manifest import Precision, Runtime


class Target(NamedTuple):
    """What a variant's name stands for."""

    runtime: Runtime
    precision: Precision


class Operator(NamedTuple):
    """One operator of a float model file. `outputs` are the tensors that it writes; `weight_bytes` what its
    constants take in float."""

    id: str
    kind: str
    outputs: tuple[str, ...]
    weight_bytes: int


TARGETS: Final[dict[str, Target]] = {
    "litert-fp32": Target("litert", "fp32"),
    "litert-int8": Target("litert", "int8"),
    "litert-int8-dynamic": Target("litert", "int8-dynamic"),
    "onnx-fp32": Target("onnx", "fp32"),
    "onnx-int8": Target("onnx", "int8"),
}


def reason(error: BaseException) -> str:
    """What a converter said, in one line: of a chain of errors the innermost, whose words name the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
