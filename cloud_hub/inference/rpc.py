"""The hub's side of the gRPC service: tokens, models, batches and counters are those of HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from cloud_hub.addresses import Endpoint
from cloud_hub.config import HubConfig
from cloud_hub.errors import HubError, UnreachableError
from cloud_hub.identity.admission import Admission
from cloud_hub.identity.callers import Caller
from cloud_hub.inference.about import About, Document
from cloud_hub.inference.endpoint import InferEndpoint, refusal_of
from cloud_hub.inference.loaded import Loaded
from cloud_hub.store.engine import is_outage
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.protocol.refusals import STATUS
from fleet.rpc import Certificate, Refusal
from fleet.rpc.loading import load_server
from fleet.rpc.port import Bounds
from fleet.rpc.room import calls_within, memory_bytes
from fleet.serving import ByteBudget
from fleet.tracing import OFF, Tracer

if TYPE_CHECKING:
    from fleet.rpc.server import RpcServer

log = logging.getLogger(__name__)

FRAME = 64 << 10  # bytes around the tensors of the largest request


class HubInference:
    """Implements `fleet.rpc.Inference`."""

    tracer: Tracer = OFF

    def __init__(
        self, admission: Admission, loaded: Loaded, about: About, endpoint: InferEndpoint, budget: ByteBudget
    ) -> None:
        self._admission, self._loaded, self._about, self._endpoint = admission, loaded, about, endpoint
        self.budget = budget

    async def known(self, authorization: str) -> None:
        """See Inference."""
        await self._admission.get(authorization)

    async def admit(self, authorization: str, model: str | None) -> Caller:
        """See Inference."""
        caller = await self._admission.get(authorization)
        if model is None:
            self._admission.enter(caller)
        else:
            self._admission.take(caller, model)
        return caller

    def server(self) -> Document:
        """See Inference."""
        return self._about.server()

    def ready(self) -> bool:
        """Models are loaded when they are asked for, so the hub is ready as soon as it answers."""
        return True

    async def model_ready(self, model: str, version: str) -> Document:
        """See Inference."""
        return await self._about.model_ready(model, version)

    async def metadata(self, model: str, version: str) -> Document:
        """See Inference."""
        return await self._about.model(model, version)

    async def config(self, model: str, version: str) -> Document:
        """See Inference."""
        return await self._about.config(model, version)

    async def statistics(self, caller: Any, model: str, version: str) -> Document:
        """See Inference."""
        return await self._about.statistics(model, version) if model else self._about.all_statistics(caller)

    async def index(self, caller: Any, only_ready: bool) -> list[Document]:
        """See Inference: every release that is published can be asked."""
        return await self._about.index(caller)

    async def body_limit(self, model: str, version: str) -> int:
        """See Inference."""
        return (await self._loaded.release(model, version)).body_limit

    async def infer(
        self, model: str, version: str, request: oip.InferRequest, began: float, gone: Callable[[], bool]
    ) -> oip.InferResponse:
        """See Inference."""
        served = await self._endpoint.loaded(model, version, request, began)
        return await self._endpoint.infer(served, request, began, gone)

    def unread(self, model: str, version: str, error: ProtocolError) -> None:
        """See Inference."""
        served = self._loaded.find(model, version)
        if served is not None:
            served.statistics.failed(0.0)

    def counted(self, refusal: Refusal | None, seconds: float) -> None:
        """See Inference."""
        status = 200 if refusal is None else STATUS[refusal.code]
        self._endpoint.answers.counted(status, seconds if refusal is None else None)

    def refusal(self, error: Exception) -> Refusal | None:
        """See Inference; a database that does not answer is told as over HTTP."""
        if isinstance(error, SQLAlchemyError) and is_outage(error):
            log.error("a gRPC call: the database does not answer", exc_info=error)
            error = UnreachableError("the database does not answer", subject="database", hint="try again later")
        return refusal_of(error) if isinstance(error, HubError | ProtocolError) else None


def rpc_endpoint(config: HubConfig) -> Endpoint | None:
    """Return the endpoint of gRPC: beside HTTP, on its own port; None without one."""
    port = config.inference.grpc_port
    return None if port is None else config.addresses.http._replace(port=port)


def make_rpc_server(config: HubConfig, inference: HubInference) -> RpcServer | None:
    """The server of `[inference] grpc_port`, with the certificate of HTTP; None without such a port.

    Raises HubError where the extra is not installed.
    """
    endpoint = rpc_endpoint(config)
    if endpoint is None:
        return None
    try:
        found = load_server()
    except ImportError as error:
        raise HubError(f"gRPC is not installed: {error}", hint='pip install "edgeloop[grpc]"') from error
    certificate = None
    if config.tls:
        certificate = Certificate(config.server_certificate.read_bytes(), config.server_key.read_bytes())
    address = str(endpoint if endpoint.host else endpoint._replace(host="::"))
    message = config.limits.infer_body + FRAME
    calls = calls_within(memory_bytes(), message, config.inference.grpc_calls)
    return found(inference, address, message_limit=message, certificate=certificate, bounds=Bounds(calls=calls))
