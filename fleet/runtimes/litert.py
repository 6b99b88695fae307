"""LiteRT, shared by `ai-edge-litert` and the older `tflite-runtime`.

Both have the same `Interpreter`. Tensors are written through views of the interpreter's own memory
(no copy in between); a view is dropped before `invoke`, which refuses to run while one is held. A small tensor costs
less with the copy that `set_tensor` makes of read-only memory than with a view.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Ports, Tensor
from fleet.protocol.tensors import AnyArray, datatype_of
from fleet.runtimes.distributions import distribution_version
from fleet.runtimes.errors import ModelLoadError, RuntimeMissingError
from fleet.runtimes.models import CPU, Arrays, Batches, Options, batch_size, check_rows, paired
from fleet.runtimes.tensors import FileTensor, Port, into_file, out_of_file, quantize_into, scalar_of

Shape = tuple[int, ...]
SMALL = 8 << 10  # bytes; making a view takes 1 µs, copying so many less


class LiteRt:
    """`ai-edge-litert`, the default runtime."""

    name = "ai-edge-litert"
    kind = "litert"

    def __init__(self) -> None:
        self._interpreter = self._load_class()
        self.version = distribution_version(self.name, self._interpreter.__module__.partition(".")[0])

    def _keeping(self, data: bytes, threads: int) -> Any:
        """An interpreter that keeps every tensor, and whose operators no delegate takes together."""
        resolvers = import_module(self._interpreter.__module__).OpResolverType
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of the memory that keeping all tensors takes
            return self._interpreter(
                model_content=data,
                num_threads=threads,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )

    def _load_class(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter

    def open(self, data: bytes, options: Options = Options()) -> LiteRtFile:  # noqa: B008 (frozen)
        """An interpreter of a flatbuffer in memory; raises ModelLoadError when the runtime refuses it."""
        if options.device != CPU:
            raise ModelLoadError(f"{self.name} runs on the CPU, not on {options.device}", hint="device: cpu")
        try:
            if options.inner:
                return LiteRtFile(self._keeping(data, options.threads))
            return LiteRtFile(self._interpreter(model_content=data, num_threads=options.threads))
        except (ValueError, RuntimeError, TypeError) as error:
            raise ModelLoadError(str(error)) from error


class TfLite(LiteRt):
    """`tflite-runtime` 2.14, for systems that LiteRT has no wheel for; slower on int8."""

    name = "tflite-runtime"

    def _load_class(self) -> Any:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError as error:
            raise RuntimeMissingError(
                "tflite-runtime cannot be imported", hint="pip install 'edgeloop[tflite]' (Python 3.11 only)"
            ) from error
        return Interpreter


class LiteRtFile:
    """An interpreter and its tensors."""

    keeps_names = False

    def __init__(self, interpreter: Any) -> None:
        interpreter.allocate_tensors()
        self.interpreter = interpreter
        signed = _signature(interpreter)
        self.inputs = tuple(_tensor(detail, signed[0]) for detail in interpreter.get_input_details())
        self.outputs = tuple(_tensor(detail, signed[1]) for detail in interpreter.get_output_details())

    @property
    def allocated(self) -> dict[int, Shape]:
        """The shapes that the inputs have now, by their index: a model before may have made room for others."""
        return {int(d["index"]): _shape(d["shape"]) for d in self.interpreter.get_input_details()}

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The operators in order, as the interpreter describes them."""
        return [op for op in self.interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]

    @property
    def tensors(self) -> list[dict[str, Any]]:
        """Every tensor, inner ones and constants too, as the interpreter describes it."""
        found: list[dict[str, Any]] = self.interpreter.get_tensor_details()
        return found

    @property
    def flow(self) -> list[int]:
        """Tensors that the input flows through, in order: inputs and operators' outputs."""
        made = [index for op in self.operations for index in op["outputs"] if index >= 0]
        return [int(index) for index in dict.fromkeys([*(tensor.index for tensor in self.inputs), *made])]

    def inner_values(self, inputs: Sequence[AnyArray]) -> Arrays:
        """Run the file once, and return the values of every float tensor in its flow, by the tensor's name.

        Args:
            inputs: as the file takes them, in its order; the file was opened with `Options.inner`.
        """
        for tensor, values in zip(self.inputs, inputs, strict=True):
            self.interpreter.set_tensor(tensor.index, values.astype(tensor.dtype, copy=False))
        self.interpreter.invoke()
        details = {int(d["index"]): d for d in self.tensors}
        kept = [index for index in self.flow if details[index]["dtype"] == np.float32]
        return {str(details[index]["name"]): self.interpreter.get_tensor(index) for index in kept}

    def model(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, strict: bool = False, ports: Ports | None = None
    ) -> LiteRtModel:
        """See `ModelFile`."""
        return LiteRtModel(self, *paired(self, inputs, outputs, strict=strict, ports=ports))


class LiteRtModel(Batches):
    """One loaded model; calls are serialized by a lock, since an interpreter is one set of tensors."""

    def __init__(self, file: LiteRtFile, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
        super().__init__(inputs, outputs)
        for port in (*self._inputs, *self._outputs):
            if port.dtype.kind == "O":
                raise ValueError(f"tensor {port.name!r} holds text, which LiteRT files cannot be asked here")
        self._interpreter = file.interpreter
        allocated = file.allocated
        self._allocated = {port.name: allocated[port.file.index] for port in self._inputs}
        self._lock = threading.Lock()

    def run(self, inputs: Arrays) -> Arrays:
        """See `LoadedModel`."""
        with self._lock:
            return self._answer(inputs)

    def close(self) -> None:
        """See `LoadedModel`."""
        with self._lock:
            self._interpreter = None

    def _once(self, inputs: Arrays) -> Arrays:
        for name, shape in self._allocated.items():
            if inputs[name].shape != shape:
                self._resize(inputs)
                break
        interpreter = self._interpreter
        for port in self._inputs:
            values = inputs[port.name]
            if not values.ndim:  # no view of a scalar can be written to
                interpreter.set_tensor(port.file.index, scalar_of(values, port))
            elif port.scale:
                quantize_into(values, port, interpreter.tensor(port.file.index)())
            elif values.nbytes <= SMALL:
                interpreter.set_tensor(port.file.index, into_file(values, port))
            else:
                interpreter.tensor(port.file.index)()[...] = into_file(values, port)
        interpreter.invoke()
        return {port.name: out_of_file(interpreter.get_tensor(port.file.index), port) for port in self._outputs}

    def _resize(self, inputs: Arrays) -> None:
        """Make room for these shapes, where the file leaves them open; what was there before stays after a refusal."""
        for port in self._inputs:
            have, open_ = inputs[port.name].shape, port.file.shape or ()
            if len(have) != len(open_) or any(size not in (-1, new) for size, new in zip(open_, have, strict=True)):
                raise ValueError(f"input {port.name!r} has shape {list(have)}, this model file takes {list(open_)}")
        if self._batched:
            check_rows(batch_size(inputs, self._batched))
        before = self._allocated
        try:
            self._allocate({port.name: inputs[port.name].shape for port in self._inputs})
        except (ValueError, RuntimeError):
            self._allocate(before)
            raise

    def _allocate(self, shapes: dict[str, Shape]) -> None:
        for port in self._inputs:
            self._interpreter.resize_tensor_input(port.file.index, shapes[port.name], strict=True)
        self._interpreter.allocate_tensors()
        self._allocated = shapes


def _signature(interpreter: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Read the names that the main graph's signature gives inputs and outputs, by index; none without a signature."""
    mine = {int(detail["index"]) for detail in interpreter.get_input_details()}
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        sides = [
            {int(detail["index"]): name for name, detail in details.items()}
            for details in (runner.get_input_details(), runner.get_output_details())
        ]
        if sides[0].keys() == mine:
            return sides[0], sides[1]
    return {}, {}


def _tensor(detail: dict[str, Any], names: dict[int, str]) -> FileTensor:
    signature = detail.get("shape_signature", ())
    scale, zero = detail["quantization"]
    try:
        datatype = datatype_of(np.empty(0, detail["dtype"]))
    except (ProtocolError, TypeError):
        datatype = ""
    return FileTensor(
        name=str(detail["name"]),
        datatype=datatype,
        shape=_shape(signature if len(signature) else detail["shape"]),
        index=int(detail["index"]),
        scale=float(scale),
        zero_point=int(zero),
        signature=names.get(int(detail["index"]), ""),
    )


def _shape(values: Any) -> Shape:
    return tuple(int(size) for size in values)
