"""Building variants: one module per runtime. Each takes a source and returns a model file's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import numpy.typing as npt

from fleet.protocol.manifest import Precision, Runtime
from model_compiler.build.calibration import Method, QuantizationPlan, Ranges

Array = npt.NDArray[Any]


class VariantTarget(NamedTuple):
    """The runtime and precision that a variant's name stands for."""

    runtime: Runtime
    precision: Precision


class Operator(NamedTuple):
    """One operator of a float model file. `outputs` are the tensors that it writes; `weight_bytes` what its
    constants take in float."""

    id: str
    kind: str
    outputs: tuple[str, ...]
    weight_bytes: int


TARGETS: Final[dict[str, VariantTarget]] = {
    "litert-fp32": VariantTarget("litert", "fp32"),
    "litert-int8": VariantTarget("litert", "int8"),
    "litert-int8-dynamic": VariantTarget("litert", "int8-dynamic"),
    "onnx-fp32": VariantTarget("onnx", "fp32"),
    "onnx-int8": VariantTarget("onnx", "int8"),
}


class Quantizer(Protocol):
    """The port that a runtime's module offers beside making float models."""

    def quantize(
        self,
        model: bytes,
        precision: Precision,
        calibration: Mapping[str, Array] | Array,
        plan: QuantizationPlan | None = None,
        *,
        known: Ranges | None = None,
    ) -> bytes:
        """Quantize a model file.

        Args:
            model: the file's bytes, in float.
            precision: of the result.
            calibration: samples (n, …), by input where there are several.
            plan: the operators to leave in float; None for none.
            known: ranges of activations that were observed before.

        Raises:
            TargetError: the file cannot be quantized so.
        """

    def observed(self, model: bytes, arrays: list[Array], method: Method) -> Ranges:
        """Return the range of every activation over the samples.

        Args:
            model: the file's bytes.
            arrays: samples (n, …), in the order of the inputs.
            method: the rule by which extremes become a range.
        """

    def operators(self, model: bytes) -> tuple[Operator, ...]:
        """The operators of a float model file."""


def reason(error: BaseException) -> str:
    """Say in one line what a converter said: of a chain of errors the innermost, whose words name the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
