"""The ONNX Runtime adapter: sessions from bytes only, so a file cannot name other files.

A model with external data is refused by the runtime itself when loaded from memory: there is no
folder to resolve the names in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_agent.errors import ModelLoadError, RuntimeMissingError
from edge_agent.runtimes.tensors import batch_size
from fleet.protocol.manifest import Manifest, Variant


class OnnxRuntime:
    """`onnxruntime` on the CPU, one thread."""

    name = "onnxruntime"
    extra = "onnx"

    def __init__(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeMissingError("onnxruntime cannot be imported", hint="pip install 'edgeloop[onnx]'") from error
        self._ort: Any = onnxruntime
        self.version = str(onnxruntime.__version__)

    def load(self, model: bytes, manifest: Manifest, variant: Variant) -> OnnxModel:
        """Load a session from memory.

        Raises:
            ModelLoadError: the runtime refuses the bytes, or its tensors are not the manifest's.
        """
        if variant.runtime != "onnx":
            raise ModelLoadError(f"{self.name} cannot load variant {variant.name!r} for {variant.runtime}")
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # ONNX Runtime's errors share no public base class; this is the boundary that translates them.
        try:
            session = self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            return OnnxModel(session, manifest)
        except Exception as error:
            raise ModelLoadError(f"onnxruntime refuses variant {variant.name!r}: {error}") from error


class OnnxModel:
    """One session; `run` may be called from several threads."""

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session = session
        self._inputs = _names([t.name for t in manifest.inputs], [v.name for v in session.get_inputs()], "input")
        outputs = _names([t.name for t in manifest.outputs], [v.name for v in session.get_outputs()], "output")
        self._outputs = list(outputs.items())
        self._asked = [theirs for _, theirs in self._outputs]
        # Exported for a batch of exactly one, while the manifest promises any.
        promised = all(tensor.shape[:1] == (-1,) for tensor in manifest.inputs)
        self._one_by_one = promised and all(list(value.shape[:1]) == [1] for value in session.get_inputs())

    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Answer one request.

        Raises:
            ValueError: the runtime refuses the inputs.
            RuntimeError: the runtime failed.
        """
        rows = batch_size(inputs) if self._one_by_one else 1
        if rows == 1:
            return self._once(inputs)
        answers = [self._once({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(rows)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name, _ in self._outputs}

    def _once(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        feed = {self._inputs[name]: array for name, array in inputs.items()}
        try:
            values = self._session.run(self._asked, feed)
        except (ValueError, RuntimeError):
            raise
        except Exception as error:  # no common base class, see `load`
            raise RuntimeError(f"onnxruntime failed: {error}") from error
        return {ours: value for (ours, _), value in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None


def _names(ours: list[str], theirs: list[str], kind: str) -> dict[str, str]:
    if len(ours) != len(theirs):
        raise ValueError(f"the manifest names {len(ours)} {kind}s, the model file has {len(theirs)}")
    if set(ours) == set(theirs):
        return {name: name for name in ours}
    return dict(zip(ours, theirs, strict=True))
