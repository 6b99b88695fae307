"""The documents in which the Open Inference Protocol, version 2, describes a server and its models.

Its requests and answers are structs of `fleet.protocol.oip`, which reads and writes them.
"""

from __future__ import annotations

from typing import Literal

from fleet.api.base import ResponseModel
from fleet.api.types import Document


class ServerMetadata(ResponseModel):
    """The server's name, its version and its protocol extensions."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(ResponseModel):
    """The server's liveness, as KServe's and Triton's clients read it."""

    live: bool


class ServerReady(ServerLive):
    """The server's readiness to take requests."""

    ready: bool


class ModelReady(ResponseModel):
    """A model's readiness to take requests."""

    name: str
    ready: bool


class TensorMetadata(ResponseModel):
    """An input or output; -1 in `shape` is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(ResponseModel):
    """A model's inputs and outputs.

    `parameters` are its task, its class names and, where it has some, its preprocessing steps (docs/local-api.md).
    """

    name: str
    versions: list[str] = []
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: Document = {}


class AsyncInference(ResponseModel):
    """A request whose answer is fetched later. `release` is the one that it asks; times are Unix seconds.

    `code` and `error` say why one has failed. Request and answer are deleted at `expires_at`.
    """

    id: str
    model: str
    release: int
    state: Literal["arriving", "queued", "running", "succeeded", "failed"]
    code: str = ""
    error: str = ""
    created_at: float
    ended_at: float | None = None
    expires_at: float


class IndexEntry(ResponseModel):
    """A release that can be asked by its number; of another one, `reason` says why not."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class InputConfig(ResponseModel):
    """An input as Triton's configuration has it; `dims` are without the batch where there is one."""

    name: str
    data_type: str
    format: str
    dims: list[int]


class OutputConfig(ResponseModel):
    """An output, likewise."""

    name: str
    data_type: str
    dims: list[int]
    label_filename: str


class ModelConfig(ResponseModel):
    """A model's configuration; `max_batch_size` is 0 for one without a batch."""

    name: str
    platform: str
    backend: str
    version_policy: Document
    max_batch_size: int
    input: list[InputConfig]
    output: list[OutputConfig]


class Duration(ResponseModel):
    """A number of events, and the nanoseconds that they took together."""

    count: int
    ns: int


class InferStatistics(ResponseModel):
    """Of requests: how many were answered and refused, how long they waited, and how long their runs took."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(ResponseModel):
    """Of runs of one size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ReleaseStatistics(ResponseModel):
    """Of one release, since this instance loaded it; `last_inference` in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class ModelStatistics(ResponseModel):
    """The counts of this instance since it started."""

    model_stats: list[ReleaseStatistics]
