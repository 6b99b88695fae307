"""A server in the hub's place over gRPC; what servers differ in is met as over HTTP (`remote`).

The statuses of gRPC become those of HTTP, which the rest of the agent reads: a server that cannot be reached or does
not answer in time is unreachable, one that says when to come back is busy, and all else is an answer that is an error.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import UnreachableError
from edge_agent.serving.binary_first import BinaryFirstServer
from edge_agent.serving.cloud import CloudError, cloud_error
from edge_agent.serving.credentials import origin
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.rpc import CallError
from fleet.rpc.loading import load_client

if TYPE_CHECKING:
    from fleet.rpc.client import RpcClient

ANSWER_LIMIT = 64 << 20  # bytes
STATUS = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "FAILED_PRECONDITION": 422,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
}  # any other is 500
AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")  # without a word about when to come back: nobody answered


class RemoteRpcServer(BinaryFirstServer):
    """A server that is asked over gRPC, which is imported for the first call."""

    NOT_BINARY = (400, 422, 500, 501)

    def _ask(
        self, model: str, request: oip.InferRequest, headers: dict[str, str], timeout_s: float, *, binary: bool
    ) -> oip.InferResponse:
        url, client = self._remote.url, self._client
        try:
            data = client.encode(request, self._remote.model or model, self._remote.version, raw=binary)
        except ProtocolError as error:
            raise CloudError(f"{url} cannot be asked: {error}", status=400) from error
        answer = b""
        try:
            answer = client.infer(data, [(name.lower(), value) for name, value in headers.items()], timeout_s)
            return client.decode(answer)
        except CallError as error:
            if error.status in AWAY and error.retry_after is None:
                raise UnreachableError(f"{url} does not answer: {error}", subject=url) from error
            later = {} if error.retry_after is None else {"retry-after": error.retry_after}
            raise cloud_error(url, STATUS.get(error.status, 500), str(error).encode(), later) from error
        except ProtocolError as error:
            raise CloudError(f"the answer of {url} does not decode: {error}", status=502) from error
        finally:
            self._count(len(data), len(answer))

    @cached_property
    def _client(self) -> RpcClient:
        try:
            made = load_client()
        except ImportError as error:
            why = f"{self._remote.url} wants gRPC, which is not installed here: pip install 'edgeloop[grpc]'"
            raise CloudError(why, status=501) from error
        credential = self._credential
        root = Path(credential.ca_file).read_bytes() if credential is not None and credential.ca_file else None
        scheme, host, port = origin(self._remote.url)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return made(target, secure=scheme == "grpcs", root=root, answer_limit=ANSWER_LIMIT)
