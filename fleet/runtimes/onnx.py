"""ONNX Runtime: sessions from bytes only, and from no file that these name.

A model with external data is refused before the runtime sees it: ONNX Runtime 1.32 refuses other folders, absolute
paths and symbolic links, but loads a file (or hard link) in the working folder even when the model comes from memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fleet.protocol.bounds import whole_number
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Ports, Tensor
from fleet.protocol.onnx_file import keeps_weights_elsewhere
from fleet.runtimes.errors import ModelLoadError, RuntimeMissingError
from fleet.runtimes.models import CPU, Arrays, Batches, Options, paired
from fleet.runtimes.tensors import FileTensor, Port, into_file, out_of_file

_NO_REPORTS = "ORT_DISABLE_TELEMETRY"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DRIVER = "are the device's driver and CUDA's libraries there? onnxruntime's log says what is missing"
_NO_LOCALE = re.compile(r"Failed to construct locale with name:([^:\s]+)")
_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


def library() -> Any:
    """Import `onnxruntime`, and keep it from reporting to its maker.

    Its builds keep a database of what they count in the home of the user, and carry the address that it is sent to
    (events.data.microsoft.com; no upload was observed), unless the environment says otherwise when they are imported.
    A device talks to its hub alone.

    Raises:
        RuntimeMissingError: it is not installed.
    """
    os.environ.update({_NO_REPORTS: "1"})
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissingError("onnxruntime cannot be imported", hint="pip install 'edgeloop[onnx]'") from error
    onnxruntime.disable_telemetry_events()  # an application had imported it before
    return onnxruntime


class OnnxRuntime:
    """`onnxruntime` on the CPU, and where it has the provider (`onnxruntime-gpu`) on CUDA devices."""

    name = "onnxruntime"
    kind = "onnx"

    def __init__(self) -> None:
        self._ort: Any = library()
        self.version = str(self._ort.__version__)

    def open(self, data: bytes, options: Options = Options()) -> OnnxFile:  # noqa: B008 (frozen)
        """A session from memory.

        Raises:
            ModelLoadError: the runtime refuses the bytes, or tensors lie in other files, or the model would not run on
                the device that was asked for.
        """
        try:
            elsewhere = keeps_weights_elsewhere(data)
        except ProtocolError as error:
            raise ModelLoadError(str(error), hint=error.hint) from error
        if elsewhere:
            raise ModelLoadError("it keeps weights in other files", hint="save it as one file")
        settings = self._ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        if options.inner:  # fused operators have no values of their own
            settings.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Load the format that was checked: not ONNX Runtime's own, which it would recognise by four bytes.
        settings.add_session_config_entry("session.load_model_format", "ONNX")
        providers = self._providers(options.device)
        # ONNX Runtime's errors share no public base class; this is the boundary that translates them.
        try:
            session = self._ort.InferenceSession(data, settings, providers=providers)
        except Exception as error:
            raise ModelLoadError(_in_words(str(error))) from error
        if options.device != CPU and _CUDA not in session.get_providers():  # it falls back in silence
            raise ModelLoadError(f"the model does not run on {options.device}", hint=_DRIVER)
        return OnnxFile(session)

    def _providers(self, device: str) -> list[Any]:
        if device == CPU:
            return [_CPU]
        kind, _, text = device.partition(":")
        number = whole_number(text)
        if kind != "cuda" or number is None:
            raise ModelLoadError(f"device {device!r} is not known to onnxruntime", hint="cpu, or cuda:0 and so on")
        if _CUDA not in self._ort.get_available_providers():
            raise ModelLoadError(f"this onnxruntime cannot use {device}", hint="pip install onnxruntime-gpu")
        # Operators without a CUDA kernel run on the CPU, as ONNX Runtime wants it.
        return [(_CUDA, {"device_id": number}), _CPU]


def _in_words(why: str) -> str:
    """The reason for which a session was refused, in our words where ONNX Runtime names neither cause nor remedy."""
    missing = _NO_LOCALE.search(why)
    if missing is None:
        return why
    return (
        f"its operator StringNormalizer needs the locale {missing[1]}, which this machine lacks: install it here and "
        "wherever the model shall run (locale-gen, of Debian's package locales), or export the model with locale 'C'"
    )


class OnnxFile:
    """A session and its tensors."""

    keeps_names = True

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_tensor(value, place) for place, value in enumerate(session.get_inputs()))
        self.outputs = tuple(_tensor(value, place) for place, value in enumerate(session.get_outputs()))

    def model(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, strict: bool = False, ports: Ports | None = None
    ) -> OnnxModel:
        """See `ModelFile`."""
        return OnnxModel(self, *paired(self, inputs, outputs, strict=strict, ports=ports))

    def run(self, names: list[str], feed: Arrays) -> list[Any]:
        """One call of the session; raises ValueError or RuntimeError."""
        try:
            found: list[Any] = self._session.run(names, feed)
        except (ValueError, RuntimeError):
            raise
        except Exception as error:  # no common base class, see `open`
            raise RuntimeError(f"onnxruntime failed: {error}") from error
        return found

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None


class OnnxModel(Batches):
    """One session; `run` may be called from several threads."""

    def __init__(self, file: OnnxFile, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
        super().__init__(inputs, outputs)
        self._file = file
        self._asked = [port.file.name for port in self._outputs]

    def run(self, inputs: Arrays) -> Arrays:
        """See `LoadedModel`."""
        return self._answer(inputs)

    def close(self) -> None:
        """See `LoadedModel`."""
        self._file.close()

    def _once(self, inputs: Arrays) -> Arrays:
        feed = {port.file.name: into_file(inputs[port.name], port) for port in self._inputs}
        values = self._file.run(self._asked, feed)
        found = zip(self._outputs, values, strict=True)
        return {port.name: out_of_file(np.asarray(value), port) for port, value in found}


def _tensor(value: Any, place: int) -> FileTensor:
    kind = str(value.type)
    datatype = _DATATYPES.get(kind.removeprefix("tensor(").removesuffix(")"), "") if kind.startswith("tensor(") else ""
    shape = None if value.shape is None else tuple(size if isinstance(size, int) else -1 for size in value.shape)
    axis = value.shape[0] if value.shape and isinstance(value.shape[0], str) else ""
    return FileTensor(name=str(value.name), datatype=datatype, shape=shape, index=place, axis=axis)
