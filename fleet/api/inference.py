"""What the Open Inference Protocol, version 2, says of a server and its models.

Its requests and answers are structs of `fleet.protocol.oip`, which reads and writes them.
"""

from __future__ import annotations

from fleet.api.base import Answer
from fleet.api.types import Document


class ServerMetadata(Answer):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(Answer):
    """Whether the server answers; what KServe's and Triton's clients read."""

    live: bool


class ServerReady(ServerLive):
    """Whether it can take requests."""

    ready: bool


class ModelReady(Answer):
    """Whether a model can take requests."""

    name: str
    ready: bool


class TensorMetadata(Answer):
    """An input or output; -1 in `shape` is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Answer):
    """A model's inputs and outputs.

    `parameters` are its task, its class names and, where it has some, its preprocessing steps (docs/local-api.md).
    """

    name: str
    versions: list[str] = []
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: Document = {}
