"""Servers that answer in the hub's place: any Open Inference Protocol v2 server that a channel names.

What servers differ in is met, not configured: a version goes into the path only where the channel names one (KServe
answers 501 to one that it does not expect), tensors are binary until the server refuses that (MLServer reads only
JSON), null stands for nothing. The credential is in `agent.toml`, bound to one origin, and never the device's own
token: whoever can sign a channel can name a server, and still have no secret sent to it.
"""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edge_agent.errors import UnreachableError
from edge_agent.ports import Credential
from edge_agent.serving.binary_first import BinaryFirstServer
from edge_agent.serving.cloud import CALLS, Carried, Cloud, CloudError, cloud_error
from edge_agent.serving.remote_rpc import RemoteRpcServer
from fleet.protocol import oip
from fleet.protocol.channel import Remote
from fleet.protocol.errors import MalformedError, ProtocolError
from fleet.protocol.finite import is_finite

if TYPE_CHECKING:
    import urllib3

SERVERS = 16  # that are remembered: a channel changes now and then
ANSWER_LIMIT = 64 << 20  # bytes
PIECE = 64 << 10


class RemoteServers:
    """The servers that channels name, each with what was learned of it.

    Args:
        credentials: by the name that a channel uses.
        count: hears of bytes that went and came.
        carried: gives headers that every call has besides, in the caller's context: those of its trace.
    """

    def __init__(
        self,
        credentials: Mapping[str, Credential],
        count: Callable[[int, int], None],
        *,
        calls: int = CALLS,
        carried: Carried = dict,
    ) -> None:
        self._credentials, self._count, self._carried = credentials, count, carried
        self._threads = ThreadPoolExecutor(calls, thread_name_prefix="remote")
        self._servers: OrderedDict[Remote, BinaryFirstServer] = OrderedDict()

    def server(self, remote: Remote) -> Cloud:
        """The server, as `Cloud`: over gRPC where its address says so."""
        found = self._servers.get(remote)
        if found is None:
            credential = self._credentials.get(remote.credential) if remote.credential else None
            kind: type[BinaryFirstServer] = RemoteRpcServer if remote.rpc else RemoteServer
            found = self._servers[remote] = kind(remote, credential, self._threads, self._count, self._carried)
            if len(self._servers) > SERVERS:
                self._servers.popitem(last=False)
        self._servers.move_to_end(remote)
        return found

    def close(self) -> None:
        """Let running calls end without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class RemoteServer(BinaryFirstServer):
    """A server that is asked over HTTP. No redirect is followed."""

    NOT_BINARY = (400, 415, 422, 500, 501)

    def __init__(
        self,
        remote: Remote,
        credential: Credential | None,
        threads: ThreadPoolExecutor,
        count: Callable[[int, int], None] = lambda up, down: None,
        carried: Carried = dict,
    ) -> None:
        super().__init__(remote, credential, threads, count, carried)
        ca_file = credential.ca_file if credential is not None else ""
        self._context = ssl.create_default_context(cafile=ca_file or None)

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        from edge_agent.identity.pool import pool_manager

        return pool_manager(maxsize=CALLS, ssl_context=self._context, retries=False)

    def _ask(
        self, model: str, request: oip.InferRequest, headers: dict[str, str], timeout_s: float, *, binary: bool
    ) -> oip.InferResponse:
        try:
            body, length = _written(request, binary=binary)
        except ProtocolError as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise CloudError(f"{self._remote.url} cannot be asked: {error}{hint}", status=400) from error
        sent = {**headers, "content-type": "application/json" if length is None else "application/octet-stream"}
        if length is not None:
            sent[oip.HEADER] = str(length)
        answer, data = self._post(self._path(model), body, sent, timeout_s)
        if answer.status != 200:
            raise cloud_error(self._remote.url, answer.status, data, answer.headers)
        try:
            return oip.decode_response(data, oip.parse_header(answer.headers.get(oip.HEADER)))
        except ProtocolError as error:
            raise CloudError(f"the answer of {self._remote.url} does not decode: {error}", status=502) from error

    def _path(self, model: str) -> str:
        version = f"/versions/{self._remote.version}" if self._remote.version else ""
        return f"{self._remote.url.rstrip('/')}/v2/models/{self._remote.model or model}{version}/infer"

    def _post(
        self, url: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        until, pieces, size = time.monotonic() + timeout_s, [], 0
        try:
            answer = self._pool.request(
                "POST",
                url,
                body=body,
                headers=headers,
                redirect=False,
                preload_content=False,
                timeout=Timeout(connect=timeout_s, read=timeout_s),
            )
            try:
                while piece := answer.read1(PIECE):
                    pieces.append(piece)
                    size += len(piece)
                    if size > ANSWER_LIMIT or time.monotonic() > until:
                        raise UnreachableError(f"the answer of {url} is too long or comes too slowly", subject=url)
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except HTTPError as error:
            raise UnreachableError(f"{self._remote.url} does not answer: {error}", subject=url) from error
        finally:
            self._count(len(body), size)
        return answer, b"".join(pieces)


def _written(request: oip.InferRequest, *, binary: bool) -> tuple[bytes, int | None]:
    if binary:
        return oip.encode_request(request, binary=True)
    for name, array in request.inputs:
        if not is_finite(array):
            why = f"input {name!r} holds NaN or infinity, and this server is asked in JSON, which has neither"
            raise MalformedError(why, subject=name, hint="name a server in the channel that takes binary tensors")
    return oip.encode_request(replace(request, binary_outputs=frozenset()), binary=False)
