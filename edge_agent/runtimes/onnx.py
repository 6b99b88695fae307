"""The ONNX Runtime adapter: sessions from verified bytes only, and from no file that these name.

A model with external data is refused before the runtime sees it: ONNX Runtime 1.32 refuses other folders, absolute
paths and symbolic links, but loads a file (or hard link) in the working folder even when the model comes from memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_agent.errors import ModelLoadError, RuntimeMissingError
from edge_agent.runtimes.tensors import batch_size
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest, Variant
from fleet.protocol.onnx_file import keeps_weights_elsewhere


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
            ModelLoadError: tensors lie in other files, the runtime refuses the bytes, or its inputs and outputs
                are not the manifest's.
        """
        if variant.runtime != "onnx":
            raise ModelLoadError(f"{self.name} cannot load variant {variant.name!r} for {variant.runtime}")
        _check_whole(model, variant)
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # What was checked is what is loaded: not ONNX Runtime's own format, which it would recognise by four bytes.
        options.add_session_config_entry("session.load_model_format", "ONNX")
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


def _check_whole(model: bytes, variant: Variant) -> None:
    try:
        elsewhere = keeps_weights_elsewhere(model)
    except ProtocolError as error:
        raise ModelLoadError(f"onnxruntime refuses variant {variant.name!r}: {error}", hint=error.hint) from error
    if elsewhere:
        raise ModelLoadError(f"variant {variant.name!r} keeps weights in other files", hint="save it as one file")


def _names(ours: list[str], theirs: list[str], kind: str) -> dict[str, str]:
    if len(ours) != len(theirs):
        raise ValueError(f"the manifest names {len(ours)} {kind}s, the model file has {len(theirs)}")
    if set(ours) == set(theirs):
        return {name: name for name in ours}
    return dict(zip(ours, theirs, strict=True))
