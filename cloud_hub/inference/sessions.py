"""Loaded cloud variants: ONNX Runtime sessions made from verified bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest
from fleet.protocol.onnx_file import keeps_weights_elsewhere

Values = Mapping[str, npt.NDArray[Any]]


class CloudModel(Protocol):
    """A model that answers a batch: every array is (n, …)."""

    def run(self, inputs: Values) -> dict[str, npt.NDArray[Any]]:
        """Answer; blocks."""
        ...


class OnnxModel:
    """A model on ONNX Runtime; outputs carry the manifest's names, in its order."""

    def __init__(self, data: bytes, manifest: Manifest) -> None:
        import onnxruntime

        try:
            elsewhere = keeps_weights_elsewhere(data)
        except ProtocolError as error:
            raise InvalidError(f"the cloud variant: {error}", subject="model", hint=error.hint) from error
        if elsewhere:
            raise InvalidError(
                "the cloud variant keeps weights in other files", subject="model", hint="save it as one file"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what was looked through, no other
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many kinds; this boundary names the model
            raise InvalidError(f"the cloud variant does not load: {error}", subject="model") from error
        self._inputs = [item.name for item in self._session.get_inputs()]
        self._names = [tensor.name for tensor in manifest.inputs]
        self._outputs = [tensor.name for tensor in manifest.outputs]

    def run(self, inputs: Values) -> dict[str, npt.NDArray[Any]]:
        """See CloudModel."""
        fed = {have: inputs[name] for have, name in zip(self._inputs, self._names, strict=True)}
        found = self._session.run(None, fed)
        return {name: np.asarray(value) for name, value in zip(self._outputs, found, strict=False)}


def load_cloud(hub: Hub, manifest: Manifest) -> CloudModel:
    """The first ONNX cloud variant of a release, its bytes checked against the signed hash.

    Raises NotFoundError (no such variant, or its blob is gone), InvalidError (damaged, does not load, or keeps
    weights in other files).
    """
    variant = next((v for v in manifest.placed("cloud") if v.runtime == "onnx"), None)
    if variant is None:
        raise NotFoundError("the release has no cloud variant", subject="model", hint="compile it with --cloud")
    data = hub.objects.get(f"blobs/{variant.blob.sha256}").data
    if hashlib.sha256(data).hexdigest() != variant.blob.sha256:
        raise InvalidError(f"blob {variant.blob.sha256} is damaged in the store", subject=variant.blob.sha256)
    return OnnxModel(data, manifest)
