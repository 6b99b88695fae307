"""LiteRT variants of a torch module, by litert-torch and ai-edge-quantizer."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet.protocol.manifest import Precision
from fleet.runtimes.litert import LiteRt, LiteRtFile
from fleet.runtimes.models import Options
from model_compiler.build.calibration import Method, QuantizationPlan, Ranges, Tensors, ranges
from model_compiler.build.quiet import quiet
from model_compiler.build.targets import Operator, reason
from model_compiler.errors import TargetError

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]


def convert(module: torch.nn.Module, example: torch.Tensor | tuple[torch.Tensor, ...]) -> bytes:
    """A float32 flatbuffer with the batch size of `example` (one); several inputs come as a tuple.

    Raises:
        TargetError: the converter cannot express an operator; its own words name it.
    """
    examples = example if isinstance(example, tuple) else (example,)
    # The converter reports an unsupported operator by whatever its layers raise.
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            import litert_torch

            path = Path(folder) / "model.tflite"
            litert_torch.convert(module, examples).export(str(path))
            return path.read_bytes()
    except Exception as error:
        words = reason(error)
        suspects = "" if "aten" in words else _suspects(module, examples)
        raise TargetError(f"litert-fp32: {words}{suspects}", subject="litert-fp32") from error


def _suspects(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> str:
    """The operators for which the converter has neither a lowering nor a decomposition, where it names none."""
    import torch

    # It only helps an error on its way, so whatever goes wrong here leaves that error as it is.
    try:
        with quiet():
            from litert_torch.backend import lowerings

            known = torch.export.default_decompositions()
            nodes = torch.export.export(module, examples).graph.nodes
            names = {
                str(node.target)
                for node in nodes
                if node.op == "call_function" and node.target not in known and lowerings.lookup(node.target) is None
            }
    except Exception:  # noqa: BLE001
        return ""
    return f" (no lowering of its own for: {', '.join(sorted(names)[:5])})" if names else ""


def quantize(
    model: bytes,
    precision: Precision,
    calibration: Mapping[str, Array] | Array,
    plan: QuantizationPlan | None = None,
    *,
    known: Ranges | None = None,
) -> bytes:
    """Quantize a float32 flatbuffer: `int8` (full integer, per channel) or `int8-dynamic` (weights only).

    Args:
        calibration: the model's inputs, each (n, …), in its order; each sample is shown to the model.
        plan: how the ranges are chosen, and which operators stay in float.
        known: the ranges by the plan's method, where `observed` gave them before.

    Raises:
        TargetError: the quantizer refuses the model.
    """
    plan = plan or QuantizationPlan()
    arrays = list(calibration.values()) if isinstance(calibration, Mapping) else [calibration]
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            from ai_edge_quantizer import quantizer

            source, result = Path(folder) / "float.tflite", Path(folder) / "int8.tflite"
            source.write_bytes(model)
            tool = quantizer.Quantizer(str(source))
            tool.load_quantization_recipe(_recipe(precision, plan))
            if precision == "int8":
                found = known or observed(model, arrays, plan.calibration)
                outcome = tool.quantize(_statistics(model, found))
            else:
                outcome = tool.quantize()
            outcome.export_model(str(result))
            return result.read_bytes()
    except Exception as error:
        raise TargetError(f"litert-{precision}: {reason(error)}", subject=f"litert-{precision}") from error


def _recipe(precision: Precision, plan: QuantizationPlan) -> list[Any]:
    from ai_edge_quantizer import algorithm_manager, recipe

    rules = recipe.static_wi8_ai8() if precision == "int8" else recipe.dynamic_wi8_afp32()
    kept = [
        {
            "regex": f"^{re.escape(operator)}$",
            "operation": rules[0]["operation"],
            "algorithm_key": algorithm_manager.AlgorithmName.NO_QUANTIZE,
            "op_config": {},
        }
        for operator in sorted(plan.float_operators)
    ]
    return [*rules, *kept]


def operators(model: bytes) -> tuple[Operator, ...]:
    """Every operator of a float flatbuffer; its id is what the quantizer calls its scope, the names of its outputs."""
    file = _opened(model)
    names = {d["index"]: d["name"] for d in file.tensors}
    sizes = {d["index"]: int(np.prod(d["shape"])) * np.dtype(d["dtype"]).itemsize for d in file.tensors}
    produced = set(file.flow)
    return tuple(
        Operator(
            id="".join(f"{names[index]};" for index in op["outputs"] if index >= 0),
            kind=op["op_name"],
            outputs=tuple(names[index] for index in op["outputs"] if index >= 0),
            weight_bytes=sum(sizes[index] for index in op["inputs"] if index >= 0 and index not in produced),
        )
        for op in file.operations
    )


def activations(model: bytes, arrays: list[Array]) -> Iterator[Tensors]:
    """The value of every float tensor that depends on the input, sample by sample."""
    file = _opened(model)
    for row in range(len(arrays[0])):
        yield file.inner_values([array[row : row + 1] for array in arrays])


def observed(model: bytes, arrays: list[Array], method: Method) -> Ranges:
    """Return the range of every activation over the samples.

    The quantizer's own calibration follows a moving average of each sample's extremes and so clips the samples that
    reach furthest; on small models that costs whole points of accuracy.
    """
    return ranges(lambda: activations(model, arrays), method)


def _statistics(model: bytes, found: Ranges) -> dict[str, Any]:
    """Ranges as the quantizer reads them."""
    ranks = {d["name"]: len(d["shape"]) for d in _opened(model).tensors}
    return {
        name: {
            "min": np.full((1,) * ranks[name], low, dtype=np.float32),
            "max": np.full((1,) * ranks[name], high, dtype=np.float32),
        }
        for name, (low, high) in found.items()
    }


def _opened(model: bytes) -> LiteRtFile:
    return LiteRt().open(model, Options(inner=True))
