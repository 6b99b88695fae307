"""Connections that no drip holds up: an answer's head must come whole within the timeout, and so must each piece.

A socket's timeout bounds the silence between two bytes. A server that sends a byte now and then, in the headers or
in what frames a chunk, would hold a caller for ever: nobody above sees a piece whose speed could be judged. Nor does
anybody see one while urllib3 unpacks an answer that is packed to nothing: none is asked for, and none is read.

urllib3 takes 2 MB and a tenth of the agent's start, and an idle agent may call nobody for weeks: import this where
calls are made, not where they may be.
"""

from __future__ import annotations

import http.client
import io
import socket
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from edge_agent.errors import UnreachableError


def pool_manager(**options: Any) -> urllib3.PoolManager:
    """A `urllib3.PoolManager` with such connections; a head or piece that is not whole in time is its read timeout.

    Its requests also raise UnreachableError, for a packed answer.
    """
    made = urllib3.PoolManager(**options)
    made.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return made


class _Reads(io.RawIOBase):
    """A socket's bytes until `timeout_s` after the last `renew`."""

    def __init__(self, raw: io.RawIOBase, timeout_s: float | None) -> None:
        self._raw, self._timeout_s = raw, timeout_s
        self.renew()

    def renew(self) -> None:
        self._until = None if self._timeout_s is None else monotonic() + self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._until is not None and monotonic() > self._until:
            raise TimeoutError(f"the server drips: nothing whole came in {self._timeout_s:g} s")
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    # Behind a status 500 the connection is not used again: a server whose application failed ends it a moment after
    # the answer, which does not say so, and the next request would be lost with it.
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._reads = _Reads(self.fp.detach(), sock.gettimeout())
        self.fp = io.BufferedReader(self._reads)

    def begin(self) -> None:
        super().begin()
        if self.status == 500:
            self.will_close = True

    def read1(self, amount: int = -1) -> bytes:
        self._reads.renew()
        return super().read1(amount)


class _Http(HTTPConnection):
    response_class = _Answer


class _Https(HTTPSConnection):
    response_class = _Answer


class _Unpacked(urllib3.HTTPConnectionPool):
    def urlopen(self, method: str, url: str, *arguments: Any, **options: Any) -> urllib3.BaseHTTPResponse:
        answer = super().urlopen(method, url, *arguments, **{**options, "decode_content": False})
        packed = answer.headers.get("Content-Encoding", "identity")
        if packed.strip().lower() in ("", "identity"):
            return answer
        answer.close()
        raise UnreachableError(
            f"the answer of {self.host} to {urlsplit(url).path} comes packed ({packed[:40]!r}), as nobody asked for",
            subject=self.host,
            hint="does a proxy before the server pack its answers? it must leave them as they are",
        )


class _HttpPool(_Unpacked):
    ConnectionCls = _Http


class _HttpsPool(_Unpacked, urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https
