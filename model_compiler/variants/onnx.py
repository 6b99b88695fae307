"""ONNX variants: export from torch, and int8 by ONNX Runtime's static quantization (QDQ)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_compiler.errors import TargetError
from model_compiler.quiet import quiet

if TYPE_CHECKING:
    import torch


def export(module: torch.nn.Module, example: torch.Tensor) -> bytes:
    """An ONNX model with a variable batch, input `x` and output `logits`, as one file.

    Raises:
        TargetError: the exporter cannot express an operator; its own words name it.
    """
    import torch

    # Two rows: torch.export takes a dimension of one for a constant.
    two = torch.cat([example, example])
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                module, (two,), str(path), dynamo=True, external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["x"], output_names=["logits"],
            )  # fmt: skip
            return path.read_bytes()
    except Exception as error:
        raise TargetError(f"onnx-fp32: {_first_line(error)}", subject="onnx-fp32") from error


def quantize(model: bytes, calibration: np.ndarray[Any, Any]) -> bytes:
    """Full int8 in QDQ form, weights per channel, calibrated by min and max on `calibration` (n, …)."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(model)
            quantize_static(
                str(source), str(result), _Rows(model, calibration), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return result.read_bytes()
    except Exception as error:
        raise TargetError(f"onnx-int8: {_first_line(error)}", subject="onnx-int8") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


class _Rows:
    """ONNX Runtime's calibration reader over the rows of an array."""

    def __init__(self, model: bytes, x: np.ndarray[Any, Any]) -> None:
        import onnx

        self._name = onnx.load_from_string(model).graph.input[0].name
        self._rows: Iterator[Any] = iter(x)

    def get_next(self) -> dict[str, Any] | None:
        """The next row as a batch of one, or None at the end."""
        row = next(self._rows, None)
        return None if row is None else {self._name: row[None]}
