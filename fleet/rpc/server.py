"""A gRPC server on one port, bounded in calls and in the size of a message."""

from __future__ import annotations

import asyncio
import resource

import grpc.aio

from fleet.rpc.port import USUAL, Bounds, Certificate, Inference
from fleet.rpc.service import Gate, RpcService

GRACE_S = 5.0  # for calls that run when the server stops
ANSWER_LIMIT = 64 << 20  # bytes
CONNECTIONS = 512  # at a time, where the process may open four times as many files: HTTP takes half of them
HANDSHAKE_MS = 10_000  # for TLS and the first frames of HTTP/2
IDLE_MS = 75_000  # a connection without a call for so long is closed
KEEPALIVE_MS = 60_000  # a client that does not answer a ping after so long is gone
AGE_MS = 3_600_000  # a connection is closed after so long: nothing else ends a call whose answer is never read
AGE_GRACE_MS = 60_000  # for calls that run then; clients begin new ones on a new connection by themselves


def most() -> int:
    """Return how many connections fit beside those of HTTP."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, soft // 4))


class RpcServer:
    """`name` is for a supervisor of services.

    Args:
        inference: what answers.
        address: `host:port` or `[::1]:port`; with port 0 any free one, which `bind` says.
        message_limit: bytes of one request, refused before they are read.
        certificate: of TLS; None: plain, for loopback.
        bounds: how much it takes on.
    """

    name = "grpc"

    def __init__(
        self,
        inference: Inference,
        address: str,
        *,
        message_limit: int,
        certificate: Certificate | None = None,
        bounds: Bounds = USUAL,
    ) -> None:
        self._service = RpcService(inference, idle_s=bounds.idle_s, request_s=bounds.request_s)
        self._address, self._certificate = address, certificate
        self._message_limit, self._calls = message_limit, bounds.calls
        self._connections = most() if bounds.connections is None else bounds.connections

    def bind(self) -> tuple[grpc.aio.Server, int]:
        """A server that is bound and not started, and its port; raises OSError. For the event loop that it runs on."""
        server = grpc.aio.server(
            interceptors=[Gate(self._service)],
            maximum_concurrent_rpcs=self._calls,
            options=[
                ("grpc.max_receive_message_length", self._message_limit),
                ("grpc.max_send_message_length", ANSWER_LIMIT),
                ("grpc.so_reuseport", 0),  # a port that another process has is refused, not shared
                ("grpc.max_allowed_incoming_connections", self._connections),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
                ("grpc.max_connection_idle_ms", IDLE_MS),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.max_connection_age_ms", AGE_MS),
                ("grpc.max_connection_age_grace_ms", AGE_GRACE_MS),
                ("grpc.http2.max_pings_without_data", 0),
            ],
        )
        server.add_generic_rpc_handlers((self._service.handler(),))
        try:
            if self._certificate is None:
                port = server.add_insecure_port(self._address)
            else:
                pair = self._certificate.key, self._certificate.chain
                port = server.add_secure_port(self._address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:  # grpc's word for an address that it does not get
            raise OSError(f"gRPC cannot listen on {self._address}: {error}") from error
        if not port:
            raise OSError(f"gRPC cannot listen on {self._address}")
        return server, int(port)

    async def run(self) -> None:
        """Bind, and serve until it is cancelled; raises OSError."""
        await self.serve(self.bind()[0])

    async def serve(self, bound: grpc.aio.Server) -> None:
        """Serve until it is cancelled; calls that run have GRACE_S to end."""
        await bound.start()
        try:
            await bound.wait_for_termination()
        finally:
            await asyncio.shield(bound.stop(GRACE_S))
