"""The port between the gRPC service and what answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.protocol.refusals import Code
from fleet.serving import ByteBudget
from fleet.tracing import Tracer

Document = dict[str, Any]

CALLS = 256  # at a time; a stream is one, however much it carries
IDLE_S = 75.0  # a stream without a request for so long is ended, as an idle connection is over HTTP
REQUEST_S = 30.0  # for the message of a call that is no stream, as for a body over HTTP


@dataclass(frozen=True)
class Bounds:
    """The limits of a server.

    `calls` may run at a time; further ones are RESOURCE_EXHAUSTED. A stream may lie still for `idle_s`, the message
    of another call may take `request_s` to come. Further `connections` are closed at once; None: as many as fit
    beside HTTP.
    """

    calls: int = CALLS
    idle_s: float = IDLE_S
    request_s: float = REQUEST_S
    connections: int | None = None


USUAL = Bounds()


class Refusal(NamedTuple):
    """A call's refusal: a word of the table, a sentence, and the seconds after which to come back (0: not said)."""

    code: Code
    text: str
    later_s: int = 0


class Certificate(NamedTuple):
    """PEM files of a TLS listener, as bytes."""

    chain: bytes
    key: bytes


class Inference(Protocol):
    """The answering side, an agent or a hub. Its methods run on one event loop, and may raise what `refusal` knows.

    A version is empty where the caller leaves it open. Documents are those of the protocol's HTTP form.
    """

    budget: ByteBudget
    tracer: Tracer

    async def known(self, authorization: str) -> None:
        """Raise unless somebody may call with this credential; nothing of the call has been read yet."""

    async def admit(self, authorization: str, model: str | None) -> Any:
        """Return the caller who sends this credential, if they may ask the model (None: some model); count the call."""

    def server(self) -> Document:
        """Return the server's name, version and extensions."""

    def ready(self) -> bool:
        """Tell whether requests can be taken."""

    async def model_ready(self, model: str, version: str) -> Document:
        """As `GET /v2/models/{model}/ready`."""

    async def metadata(self, model: str, version: str) -> Document:
        """As `GET /v2/models/{model}`."""

    async def config(self, model: str, version: str) -> Document:
        """As `GET /v2/models/{model}/config`."""

    async def statistics(self, caller: Any, model: str, version: str) -> Document:
        """As `GET /v2/models/{model}/stats`; of all models that the caller may ask with an empty name."""

    async def index(self, caller: Any, only_ready: bool) -> list[Document]:
        """As `POST /v2/repository/index`."""

    async def body_limit(self, model: str, version: str) -> int:
        """The most bytes that a request to the model can need."""

    async def infer(
        self, model: str, version: str, request: oip.InferRequest, began: float, gone: Callable[[], bool]
    ) -> oip.InferResponse:
        """The answer; `began` is when the request came, by the event loop's clock, `gone` whether nobody waits."""

    def unread(self, model: str, version: str, error: ProtocolError) -> None:
        """Count a request that could not be read."""

    def counted(self, refusal: Refusal | None, seconds: float) -> None:
        """Count an inference request that was answered, or refused, so long after it came."""

    def refusal(self, error: Exception) -> Refusal | None:
        """Return how an error is told to the caller; None for a fault of the server's own."""


class CallError(Exception):
    """A call to somebody else that ended with a status: `status` is the name of a `grpc.StatusCode`, `retry_after` what
    the server says of when to come back, in seconds as text."""

    def __init__(self, status: str, text: str, retry_after: str | None) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.retry_after = status, retry_after
