"""The LiteRT adapter, shared by `ai-edge-litert` and the older `tflite-runtime`.

Both have the same `Interpreter`. Tensors are written through views of the interpreter's own memory
(no copy in between); a view is dropped before `invoke`, which refuses to run while one is held.
One thread: an edge device's cores belong to its applications, and small models gain nothing.
"""

from __future__ import annotations

import threading
from importlib import metadata
from typing import Any

import numpy as np

from edge_agent.errors import ModelLoadError, RuntimeMissingError
from edge_agent.runtimes.tensors import MAX_BATCH, Port, batch_size, dequantize, match, quantize
from fleet.protocol.manifest import Manifest, Variant


class LiteRt:
    """`ai-edge-litert`, the default runtime."""

    name = "ai-edge-litert"
    module = "ai_edge_litert.interpreter"
    extra = ""

    def __init__(self) -> None:
        self.version = metadata.version(self.name)
        self._interpreter = self._load_class()

    def _load_class(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter

    def load(self, model: bytes, manifest: Manifest, variant: Variant) -> LiteRtModel:
        """Load a flatbuffer from memory.

        Raises:
            ModelLoadError: the runtime refuses the file, or its tensors are not the manifest's.
        """
        if variant.runtime != "litert":
            raise ModelLoadError(f"{self.name} cannot load variant {variant.name!r} for {variant.runtime}")
        try:
            return LiteRtModel(self._interpreter(model_content=model, num_threads=1), manifest)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ModelLoadError(f"{self.name} refuses variant {variant.name!r}: {error}") from error


class TfLite(LiteRt):
    """`tflite-runtime` 2.14, for systems that LiteRT has no wheel for; slower on int8."""

    name = "tflite-runtime"
    module = "tflite_runtime.interpreter"
    extra = "tflite"

    def _load_class(self) -> Any:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError as error:
            raise RuntimeMissingError(
                "tflite-runtime cannot be imported", hint="pip install 'edgeloop[tflite]' (Python 3.11 only)"
            ) from error
        return Interpreter


class LiteRtModel:
    """One loaded model; calls are serialized by a lock, since an interpreter is one set of tensors."""

    def __init__(self, interpreter: Any, manifest: Manifest) -> None:
        self._interpreter = interpreter
        interpreter.allocate_tensors()
        self._inputs = match(manifest.inputs, interpreter.get_input_details(), kind="input")
        self._outputs = match(manifest.outputs, interpreter.get_output_details(), kind="output")
        self._batched = bool(self._inputs[0].shape) and manifest.inputs[0].shape[:1] == (-1,)
        self._dynamic = all(port.dynamic for port in self._inputs)
        self._rows = self._inputs[0].shape[0] if self._batched else 1
        self._lock = threading.Lock()

    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Answer one request; arrays as the manifest describes them, outputs are copies.

        Raises:
            ValueError: a shape that the model cannot take.
            RuntimeError: the runtime failed.
        """
        with self._lock:
            rows = batch_size(inputs) if self._batched else self._rows
            if rows == self._rows:
                return self._once(inputs)
            if not 1 <= rows <= MAX_BATCH:
                raise ValueError(f"a batch of {rows} rows; this model takes 1 to {MAX_BATCH}")
            if self._dynamic:
                self._resize(rows)
                return self._once(inputs)
            return self._row_by_row(inputs, rows)

    def close(self) -> None:
        """Give the interpreter's memory back; the model must not be used afterwards."""
        with self._lock:
            self._interpreter = None

    def _once(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        interpreter = self._interpreter
        for port in self._inputs:
            quantize(inputs[port.name], port, interpreter.tensor(port.index)())
        interpreter.invoke()
        return {port.name: self._read(port) for port in self._outputs}

    def _read(self, port: Port) -> np.ndarray[Any, Any]:
        return dequantize(self._interpreter.get_tensor(port.index), port)

    def _row_by_row(self, inputs: dict[str, np.ndarray[Any, Any]], rows: int) -> dict[str, np.ndarray[Any, Any]]:
        if self._rows != 1:
            raise ValueError(f"a batch of {rows} rows; this model file takes exactly {self._rows}")
        answers = [self._once({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(rows)]
        return {port.name: np.concatenate([answer[port.name] for answer in answers]) for port in self._outputs}

    def _resize(self, rows: int) -> None:
        for port in self._inputs:
            self._interpreter.resize_tensor_input(port.index, (rows, *port.shape[1:]), strict=True)
        self._interpreter.allocate_tensors()
        self._rows = rows
