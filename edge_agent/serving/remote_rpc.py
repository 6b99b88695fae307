"""A server in the hub's place over gRPC; what servers differ in is met as over HTTP (`remote`).

The statuses of gRPC become those of HTTP, which the rest of the agent reads: a server that cannot be reached or does
not answer in time is unreachable, one that says when to come back is busy, and all else is an answer that is an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import UnreachableError
from edge_agent.ports import Credential
from edge_agent.serving.cloud import Carried, CloudError, cloud_error
from edge_agent.serving.credentials import authorization, origin
from fleet.protocol import oip
from fleet.protocol.channel import Remote
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
NOT_RAW = (400, 422, 500, 501)  # what servers say to raw tensors


class RemoteRpcServer:
    """Implements `Cloud`. Calls wait in `threads`, where gRPC is imported for the first."""

    def __init__(
        self,
        remote: Remote,
        credential: Credential | None,
        threads: ThreadPoolExecutor,
        count: Callable[[int, int], None] = lambda up, down: None,
        carried: Carried = dict,
    ) -> None:
        self._carried = carried
        self._remote, self._credential, self._threads, self._count = remote, credential, threads, count
        self._raw, self._proven = remote.binary, False

    async def infer(
        self, model: str, version: int | None, request: oip.InferRequest, timeout_s: float
    ) -> oip.InferResponse:
        """See `Cloud`; `version` is the hub's own numbering, which other servers do not know."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._infer, model, request, timeout_s, self._carried())

    def _infer(
        self, model: str, request: oip.InferRequest, timeout_s: float, carried: dict[str, str]
    ) -> oip.InferResponse:
        until = time.monotonic() + timeout_s
        if not self._raw:
            return self._ask(model, request, timeout_s, carried, raw=False)
        try:
            answer = self._ask(model, request, timeout_s, carried, raw=True)
        except CloudError as error:
            left = until - time.monotonic()
            if self._proven or error.status not in NOT_RAW or left <= 0:
                raise
            answer = self._ask(model, request, left, carried, raw=False)
            self._raw = False
            return answer
        self._proven = True
        return answer

    def _ask(
        self, model: str, request: oip.InferRequest, timeout_s: float, carried: dict[str, str], *, raw: bool
    ) -> oip.InferResponse:
        url, client = self._remote.url, self._client
        try:
            data = client.encode(request, self._remote.model or model, self._remote.version, raw=raw)
        except ProtocolError as error:
            raise CloudError(f"{url} cannot be asked: {error}", status=400) from error
        headers = {**carried, **authorization(self._remote, self._credential)}
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
