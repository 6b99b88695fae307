"""The agent's side of the gRPC service: the engine that answers HTTP answers it, too, with the same budget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError, UsageError
from edge_agent.serving.about import About, Document
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import ERRORS, refusal_of
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.protocol.hosts import is_loopback
from fleet.rpc import Refusal
from fleet.rpc.loading import load_server
from fleet.rpc.port import Bounds
from fleet.rpc.room import calls_within, memory_bytes
from fleet.runtimes.cost import BODY_LIMIT
from fleet.serving import ByteBudget
from fleet.tracing import OFF, Tracer

if TYPE_CHECKING:
    from fleet.rpc.server import RpcServer

CALLS = 64  # at a time, where the memory allows
FRAME = 64 << 10  # bytes around the tensors of the largest request
MESSAGE = BODY_LIMIT + FRAME


class AgentInference:
    """Implements `fleet.rpc.Inference`. It listens on loopback, so whoever reaches it may ask, as over HTTP."""

    def __init__(self, engine: Engine, about: About, budget: ByteBudget, tracer: Tracer = OFF) -> None:
        self._engine, self._about = engine, about
        self.tracer = tracer
        self.budget = budget

    async def known(self, authorization: str) -> None:
        """See Inference."""

    async def admit(self, authorization: str, model: str | None) -> None:
        """See Inference."""

    def server(self) -> Document:
        """See Inference."""
        return self._about.server()

    def ready(self) -> bool:
        """See Inference."""
        return self._about.ready()

    async def model_ready(self, model: str, version: str) -> Document:
        """See Inference."""
        return self._about.model_ready(model, version)

    async def metadata(self, model: str, version: str) -> Document:
        """See Inference."""
        return self._about.model(model, version)

    async def config(self, model: str, version: str) -> Document:
        """See Inference."""
        return self._about.config(model, version)

    async def statistics(self, caller: Any, model: str, version: str) -> Document:
        """See Inference."""
        return self._about.statistics(model, version)

    async def index(self, caller: Any, only_ready: bool) -> list[Document]:
        """See Inference."""
        return self._about.index(only_ready)

    async def body_limit(self, model: str, version: str) -> int:
        """See Inference."""
        return self._engine.body_limit(model)

    async def infer(
        self, model: str, version: str, request: oip.InferRequest, began: float, gone: Callable[[], bool]
    ) -> oip.InferResponse:
        """See Inference."""
        return await self._engine.infer(model, version, request, began, gone)

    def unread(self, model: str, version: str, error: ProtocolError) -> None:
        """See Inference."""
        self._engine.refuse(model, error)

    def counted(self, refusal: Refusal | None, seconds: float) -> None:
        """See Inference: the engine's observer has heard of it."""

    def refusal(self, error: Exception) -> Refusal | None:
        """See Inference."""
        return refusal_of(error) if isinstance(error, ERRORS) else None


def make_rpc_server(config: AgentConfig, inference: AgentInference) -> RpcServer:
    """The gRPC server of `config.grpc_port`.

    Raises:
        UsageError: an address beyond loopback. AgentError: the extra is not installed.
    """
    try:
        found = load_server()
    except ImportError as error:
        raise AgentError(f"gRPC is not installed: {error}", hint='pip install "edgeloop[grpc]"') from error
    if not is_loopback(config.host):
        raise UsageError(f"the local API listens on loopback only, not on {config.host}", hint="host = 127.0.0.1")
    host = f"[{config.host}]" if ":" in config.host else config.host
    calls = calls_within(memory_bytes(), MESSAGE, CALLS)
    return found(inference, f"{host}:{config.grpc_port}", message_limit=MESSAGE, bounds=Bounds(calls=calls))


def open_rpc(
    config: AgentConfig, engine: Engine, about: About, budget: ByteBudget, tracer: Tracer = OFF
) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
    """The address of gRPC and what serves it, bound already; nothing where no port is set.

    Raises:
        AgentError: the port is taken, or as `make_rpc_server`.
    """
    if config.grpc_port is None:
        return []
    made = make_rpc_server(config, AgentInference(engine, about, budget, tracer))
    try:
        bound, port = made.bind()
    except OSError as error:
        raise AgentError(str(error), hint="choose another port with --grpc-port") from error
    return [(f"grpc:{config.host}:{port}", lambda: made.serve(bound))]
