"""The JSON of the Open Inference Protocol v2, as it is written (`Oip…`) and as it is read (`Read…`).

Some servers and clients (KServe's among them) write null where they have nothing to say; it is read as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from fleet.protocol.tensor_spec import Tensor


class OipTensor(Struct, omit_defaults=True):
    """A tensor in JSON; with the binary extension its values follow the JSON, as many bytes as
    `parameters.binary_data_size` says."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | UnsetType = UNSET


class OipOutput(Struct, omit_defaults=True):
    """An output that the caller wants."""

    name: str
    parameters: dict[str, Any] = {}


class OipRequest(Struct, omit_defaults=True):
    """The JSON of a request; `parameters.timeout` is a deadline in microseconds."""

    inputs: list[OipTensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[OipOutput] = []


class OipResponse(Struct, omit_defaults=True):
    """The JSON of an answer; `parameters` say who gave it."""

    model_name: str
    outputs: list[OipTensor]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Any] = {}


class ReadTensor(Struct):
    """A tensor as it comes."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | UnsetType | None = UNSET


class ReadOutput(Struct):
    """A wanted output as it comes."""

    name: str
    parameters: dict[str, Any] | None = None


class ReadRequest(Struct):
    """A request as it comes."""

    inputs: list[ReadTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[ReadOutput] | None = None


class ReadResponse(Struct):
    """An answer as it comes."""

    outputs: list[ReadTensor]
    model_name: str | None = None
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


def model_metadata(
    name: str,
    versions: Sequence[str],
    platform: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of `GET /v2/models/{name}`.

    Args:
        platform: like `litert_tflite` or `onnx_onnxv1`.
        parameters: what the protocol has no field for; see `asking.release_parameters`.
    """
    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": list(map(tensor_metadata, inputs)),
        "outputs": list(map(tensor_metadata, outputs)),
        **({"parameters": dict(parameters)} if parameters else {}),
    }


def tensor_metadata(tensor: Tensor) -> dict[str, Any]:
    """A tensor as metadata shows it."""
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
