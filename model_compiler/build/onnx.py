"""ONNX variants: export from torch, and int8 by ONNX Runtime's static quantization (QDQ)."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fleet.protocol.manifest import Precision
from fleet.runtimes.models import ALL_CORES, Options
from fleet.runtimes.onnx import OnnxRuntime, library
from model_compiler.build.calibration import Method, QuantizationPlan, Ranges, Tensors, ranges
from model_compiler.build.quiet import quiet
from model_compiler.build.targets import Operator, reason
from model_compiler.errors import TargetError

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]


def export(
    module: torch.nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> bytes:
    """An ONNX model with a variable batch, as one file; several inputs come as a tuple.

    A module that was exported for a fixed batch stays one with a batch of one.

    Args:
        inputs: names for the inputs, in the order of `example`; empty for those of `forward`'s parameters.
        outputs: names for the outputs, in the module's order; empty for the exporter's.

    Raises:
        TargetError: the exporter cannot express an operator; its own words name it.
    """
    import torch

    from model_compiler.inputs.sources import onnx_names, renamed

    examples = example if isinstance(example, tuple) else (example,)
    # Two rows: torch.export takes a dimension of one for a constant.
    two = tuple(torch.cat([one, one]) for one in examples)
    batch = torch.export.Dim("batch")
    each = tuple({0: batch} for _ in examples)
    varargs = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())
    try:
        data = _exported(module, two, dynamic_shapes=(each,) if varargs else each)
    except TargetError as first:
        try:
            data = _exported(module, examples)
        except TargetError:
            raise first from None
    # Named afterwards: the exporter would give an input a name that another value has already.
    own = onnx_names(data)
    pairs = [*zip(own[0], inputs, strict=bool(inputs)), *zip(own[1], outputs, strict=bool(outputs))]
    return renamed(data, dict(pairs))


def _exported(module: Any, examples: Any, **options: Any) -> bytes:
    import torch

    # The exporter reports an unsupported operator by whatever its layers raise.
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(module, examples, str(path), dynamo=True, external_data=False, **options)
            return path.read_bytes()
    except Exception as error:
        raise TargetError(f"onnx-fp32: {reason(error)}", subject="onnx-fp32") from error


def quantize(
    model: bytes,
    precision: Precision,
    calibration: Mapping[str, Array] | Array,
    plan: QuantizationPlan | None = None,
    *,
    known: Ranges | None = None,
) -> bytes:
    """Full int8 in QDQ form, weights per channel.

    Args:
        precision: `int8`; nothing else is built for ONNX Runtime.
        calibration: the model's inputs, each (n, …), in its order; each sample is shown to the model.
        plan: how the ranges are chosen, and which operators stay in float.
        known: the ranges by the plan's method, where `observed` gave them before.

    Raises:
        TargetError: the quantizer refuses the model.
    """
    library()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    if precision != "int8":
        raise TargetError(f"onnx-{precision}: ONNX variants are fp32 or int8", subject=f"onnx-{precision}")
    plan = plan or QuantizationPlan()
    arrays = list(calibration.values()) if isinstance(calibration, Mapping) else [calibration]
    # The quantizer's errors have no common base; this is the boundary that names the target.
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            source, result, found = (Path(folder) / name for name in ("float.onnx", "int8.onnx", "ranges.json"))
            named = _named(model)
            source.write_bytes(named)
            _save_ranges(found, known or observed(named, arrays, plan.calibration))
            quantize_static(
                str(source),
                str(result),
                None,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(plan.float_operators),
                calibration_cache_path=str(found),
            )
            return result.read_bytes()
    except Exception as error:
        raise TargetError(f"onnx-int8: {reason(error)}", subject="onnx-int8") from error


def observed(model: bytes, arrays: list[Array], method: Method) -> Ranges:
    """Return the range of every activation over the samples."""
    return ranges(lambda: activations(model, arrays), method)


def operators(model: bytes) -> tuple[Operator, ...]:
    """Every node of the main graph; its id is its name, which is made where the file gives none."""
    import onnx

    graph = onnx.load_from_string(_named(model)).graph
    sizes = {tensor.name: len(tensor.SerializeToString()) for tensor in graph.initializer}
    return tuple(
        Operator(
            id=node.name,
            kind=node.op_type,
            outputs=tuple(node.output),
            weight_bytes=sum(sizes.get(name, 0) for name in node.input),
        )
        for node in graph.node
    )


def activations(model: bytes, arrays: list[Array]) -> Iterator[Tensors]:
    """The value of every float tensor that depends on the input, sample by sample."""
    import onnx

    known = onnx.shape_inference.infer_shapes(onnx.load_from_string(_named(model)))
    graph = known.graph
    outputs = {value.name for value in graph.output}
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in outputs:
            graph.output.append(value)
    file = OnnxRuntime().open(known.SerializeToString(), Options(threads=ALL_CORES, inner=True))
    wanted, names = ([tensor.name for tensor in side] for side in (file.inputs, file.outputs))
    for row in range(len(arrays[0])):
        feed = {name: array[row : row + 1] for name, array in zip(wanted, arrays, strict=True)}
        values = dict(zip(names, file.run(names, feed), strict=True)) | feed
        yield {name: value for name, value in values.items() if value.dtype == np.float32 and value.size}


def _named(model: bytes) -> bytes:
    """The same model in which every node has a name."""
    import onnx

    loaded = onnx.load_from_string(model)
    if all(node.name for node in loaded.graph.node):
        return model
    for place, node in enumerate(loaded.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"
    named: bytes = loaded.SerializeToString()
    return named


def _save_ranges(path: Path, found: Ranges) -> None:
    """As the quantizer reads them instead of calibrating by itself."""
    library()
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.quantize import save_tensors_data

    tensors = {
        name: TensorData(lowest=np.float32(low).reshape(()), highest=np.float32(high).reshape(()))
        for name, (low, high) in found.items()
    }
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, tensors), path)
