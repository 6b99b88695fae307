"""LiteRT variants of a torch module, by litert-torch and ai-edge-quantizer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet.protocol.manifest import Precision
from model_compiler.errors import TargetError
from model_compiler.quiet import quiet

if TYPE_CHECKING:
    import torch


def convert(module: torch.nn.Module, example: torch.Tensor) -> bytes:
    """A float32 flatbuffer with the batch size of `example` (one).

    Raises:
        TargetError: the converter cannot express an operator; its own words name it.
    """
    # The converter reports an unsupported operator by whatever its layers raise.
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            import litert_torch

            path = Path(folder) / "model.tflite"
            litert_torch.convert(module, (example,)).export(str(path))
            return path.read_bytes()
    except Exception as error:
        raise TargetError(f"litert-fp32: {_first_line(error)}", subject="litert-fp32") from error


def quantize(model: bytes, precision: Precision, calibration: np.ndarray[Any, Any]) -> bytes:
    """Quantize a float32 flatbuffer: `int8` (full integer, per channel) or `int8-dynamic` (weights only).

    `calibration` has shape (n, …) and the model's input dtype; each row is shown to the model once.

    Raises:
        TargetError: the quantizer refuses the model.
    """
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            from ai_edge_quantizer import quantizer, recipe

            source, result = Path(folder) / "float.tflite", Path(folder) / "int8.tflite"
            source.write_bytes(model)
            tool = quantizer.Quantizer(str(source))
            if precision == "int8":
                tool.load_quantization_recipe(recipe.static_wi8_ai8())
                outcome = tool.quantize(_extremes(tool, model, calibration))
            else:
                tool.load_quantization_recipe(recipe.dynamic_wi8_afp32())
                outcome = tool.quantize()
            outcome.export_model(str(result))
            return result.read_bytes()
    except Exception as error:
        raise TargetError(f"litert-{precision}: {_first_line(error)}", subject=f"litert-{precision}") from error


def _extremes(tool: Any, model: bytes, x: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The least and largest value of every tensor over all rows of `x` (min-max calibration).

    The quantizer's own calibration follows a moving average of each row's extremes, which clips the
    rows that reach furthest; on small models that costs whole points of accuracy.
    """
    from ai_edge_litert.interpreter import Interpreter

    key, signature = next(iter(Interpreter(model_content=model).get_signature_list().items()))
    name = signature["inputs"][0]
    total: dict[str, Any] = {}
    for row in x:
        for tensor, found in tool.calibrate({key: [{name: row[None]}]}).items():
            known = total.setdefault(tensor, dict(found))
            if "min" in found:
                known["min"] = np.minimum(known["min"], found["min"])
                known["max"] = np.maximum(known["max"], found["max"])
    return total


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
