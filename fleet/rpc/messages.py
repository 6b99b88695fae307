"""The protocol's messages, made of the descriptors in `inference.pb`.

They live in a pool of their own: another package of the same protocol, such as Triton's client, may be in the process.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
DESCRIPTORS = "inference.pb"


def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    data = files("fleet.rpc").joinpath(DESCRIPTORS).read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()


def kind(name: str) -> Any:
    """The class of a message, such as `ModelInferRequest`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def calls() -> dict[str, tuple[Any, Any]]:
    """The classes of request and answer of every call of the service."""
    methods = _POOL.FindServiceByName(SERVICE).methods
    return {method.name: (kind(method.input_type.name), kind(method.output_type.name)) for method in methods}


InferRequest = kind("ModelInferRequest")
InferResponse = kind("ModelInferResponse")
StreamResponse = kind("ModelStreamInferResponse")
