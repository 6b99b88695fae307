"""Authenticated calls to the hub: one pool, the hub's own CA, a bearer token renewed when it is refused."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from edge_agent.errors import AgentError, DeniedError, IdentityError, UnreachableError
from edge_agent.identity import pairs
from edge_agent.identity.enroll import enrol_again, load_enrollment
from edge_agent.identity.signer import LocalSigner
from edge_agent.identity.tls import Dates, client_context
from edge_agent.ports import Signer
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import HTTP_LIMIT, NonceResponse, TokenRequest, TokenResponse

if TYPE_CHECKING:
    import urllib3

T = TypeVar("T")
ENROL_ANEW = (
    "was it revoked? move `identity` in its directory away and enrol it with a new token and name: what it has stays,"
    " and what waits is sent then"
)

log = logging.getLogger(__name__)

ANSWER_LIMIT = 64 << 20  # bytes that an answer read whole may have
PIECE = 64 << 10


class WholeResponse(Struct, frozen=True, kw_only=True):
    """An HTTP answer, read whole; implements `ports.HubResponse`."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class HubHttp:
    """Implements `ports.HubCalls`, for any number of threads. No redirect is ever followed.

    Keys are read again for every new token, since the child may have renewed them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        connect_timeout_s: float = 10.0,
        connections: int = 8,
        clock: Callable[[], float] = time.time,
        clock_slack_s: float = 3600.0,
        signer: Signer | None = None,
    ) -> None:
        enrollment = load_enrollment(directory)
        self.base = enrollment.hub
        self.device_id = enrollment.device_id
        self._identity = directory / "identity"
        if not (self._identity / pairs.KEY).exists():  # says so at once; it is read for the first token
            why = f"{self._identity / pairs.KEY}: no device key"
            raise IdentityError(why, subject=pairs.KEY, hint=enrol_again(directory))
        self._signer = signer or LocalSigner(self._identity)
        self._connect_timeout_s = connect_timeout_s
        dates = Dates(directory, clock=clock, slack_s=clock_slack_s)
        try:
            self._context = client_context(self._identity / "ca.pem", dates)
        except OSError as error:  # ssl.SSLError is one
            why = f"{self._identity / 'ca.pem'}: not the hub's certificate authority: {error}"
            raise IdentityError(why, subject="ca.pem", hint=enrol_again(directory)) from error
        self._connections = connections
        self._token = ""
        self._lock = threading.Lock()

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        from edge_agent.identity.pool import pool_manager

        return pool_manager(maxsize=self._connections, ssl_context=self._context, retries=False)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> WholeResponse:
        """Call the hub and read the answer whole.

        Args:
            method: such as `GET`.
            path: starts with a slash and holds the query.
            body: bytes to send; None for none.
            headers: beside those of the token.
            timeout: seconds of silence.

        Raises:
            UnreachableError: `timeout` seconds of silence, or twice as many until the answer was whole.
            DeniedError: the hub gives this device no token.
        """
        with self.stream(method, path, body=body, headers=headers, timeout=timeout) as answer:
            data = self._whole(answer, path, timeout, ANSWER_LIMIT)
            if len(data) > ANSWER_LIMIT:
                raise AgentError(f"the answer to {path} is larger than {ANSWER_LIMIT} bytes", subject=self.base)
            return WholeResponse(status=answer.status, headers=dict(answer.headers), data=data)

    def _whole(self, answer: urllib3.BaseHTTPResponse, path: str, timeout: float, limit: int) -> bytes:
        """The body, at most one byte over `limit`. A server that drips is left: silence alone does not bound it."""
        from urllib3.exceptions import HTTPError

        pieces, size, until = [], 0, time.monotonic() + 2 * timeout
        try:
            while size <= limit and (piece := answer.read1(min(PIECE, limit + 1 - size))):
                pieces.append(piece)
                size += len(piece)
                if time.monotonic() > until:
                    raise UnreachableError(f"the answer to {path} took over {2 * timeout:g} s", subject=self.base)
        except HTTPError as error:
            raise UnreachableError(f"the answer to {path} broke off: {error}", subject=self.base) from error
        return b"".join(pieces)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Like `request`, with the body still to be read by the caller.

        Args:
            method: such as `GET`.
            path: starts with a slash and holds the query.
            body: bytes to send; None for none.
            headers: beside those of the token.
            timeout: seconds of silence.

        Raises:
            UnreachableError: no answer began in time.
            DeniedError: the hub gives this device no token.
        """
        token = self._token or self._renew("", timeout)
        answer = self._open(method, path, body, headers, timeout, token)
        if answer.status == 401:
            answer.close()  # its body is not read, so the connection cannot be used again
            answer = self._open(method, path, body, headers, timeout, self._renew(token, timeout))
        try:
            yield answer
        finally:
            # An answer that was not read to its end must not be reused for the next call.
            if answer.closed:
                answer.release_conn()
            else:
                answer.close()

    def _open(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None, timeout: float, token: str
    ) -> urllib3.BaseHTTPResponse:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        sent = {"Authorization": f"Bearer {token}", **(headers or {})} if token else dict(headers or {})
        try:
            answer = self._pool.request(
                method,
                self.base + path,
                body=body,
                headers=sent,
                redirect=False,
                preload_content=False,
                timeout=Timeout(connect=min(self._connect_timeout_s, timeout), read=timeout),
            )
        except HTTPError as error:
            raise UnreachableError(f"the hub at {self.base} does not answer: {error}", subject=self.base) from error
        if answer.status == 200 and answer.headers.get("Content-Type", "").startswith("text/html"):
            answer.close()
            raise UnreachableError(
                f"a web page came instead of the hub's answer to {path}",
                subject=self.base,
                hint="does the network ask for a login?",
            )
        return answer

    def _renew(self, refused: str, timeout: float) -> str:
        """A new token, unless another thread has fetched one since `refused` was used."""
        with self._lock:
            if self._token != refused:
                return self._token
            self._token = self._buy_token(timeout)
            return self._token

    def log_in(self, timeout: float = 30.0) -> None:
        """Buy a new token, with the next key when there is one.

        Raises:
            DeniedError, UnreachableError.
        """
        with self._lock:
            self._token = self._buy_token(timeout)

    def _buy_token(self, timeout: float) -> str:
        """With the next key if the hub has certified one, which makes it the device's; else with the one in use."""
        if pairs.NEXT_KEY in pairs.candidates(self._identity):
            try:
                token = self._token_for(pairs.NEXT_KEY, timeout)
                pairs.promote(self._identity)
                return token
            except (DeniedError, IdentityError) as error:  # refused or damaged, it must not stand before the key in use
                log.warning("the next key cannot be used: %s", error)
        return self._token_for(pairs.KEY, timeout)

    def _token_for(self, key: str, timeout: float) -> str:
        nonce = self.ask("/device/nonce", encode_json({"device_id": self.device_id}), NonceResponse, timeout).nonce
        signature = self._signer.sign(key, nonce)
        request = TokenRequest(device_id=self.device_id, nonce=nonce, signature=signature)
        return self.ask("/device/token", encode_json(request), TokenResponse, timeout).token

    def ask(self, path: str, body: bytes, kind: type[T], timeout: float = 30.0) -> T:
        """POST without a token.

        Args:
            path: starts with a slash.
            body: JSON.
            kind: of the answer.
            timeout: seconds of silence.

        Raises:
            DeniedError: the hub refuses this device.
            UnreachableError: no answer, or not this one.
        """
        answer = self._open("POST", path, body, None, timeout, "")
        try:
            data = self._whole(answer, path, timeout, HTTP_LIMIT)
        finally:
            if answer.closed:
                answer.release_conn()
            else:
                answer.close()
        if answer.status in (401, 403):
            raise DeniedError("the hub refuses this device", subject=self.device_id, hint=ENROL_ANEW)
        if answer.status != 200:
            raise UnreachableError(f"{path} answers HTTP {answer.status}", subject=self.base)
        return read_answer(data, kind, path)


def read_answer(data: bytes, kind: type[T], path: str) -> T:
    """Decode the hub's answer.

    Args:
        data: the body.
        kind: the struct that it should be.
        path: the call's, for messages.

    Raises:
        UnreachableError: a hub would not have answered this.
    """
    try:
        return decode_json(data, kind, limit=HTTP_LIMIT, subject=f"the answer to {path}")
    except ProtocolError as error:
        hint = "it is asked again; if this lasts, something between rewrites its answers, or the hub is another version"
        raise UnreachableError(str(error), subject=path, hint=hint) from error
