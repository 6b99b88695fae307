"""`POST /v2/models/{name}[/versions/{v}]/infer`: the hot route, from the bytes of a request to those of its answer."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
from collections.abc import Awaitable, Mapping
from typing import NamedTuple, cast
from urllib.parse import unquote

import httptools

from edge_agent.errors import InferenceError, LateError, NotFoundError
from edge_agent.serving import access
from edge_agent.serving.engine import Engine
from edge_agent.serving.turns import Found, InTurn
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError, TooLargeError
from fleet.protocol.refusals import STATUS, Code
from fleet.rpc import Refusal
from fleet.runtimes.cost import (
    INFLATED,
    JSON_LIMIT,
    check_answer,
    check_json,
    inflate,
    request_limit,
    request_too_large,
)
from fleet.serving import BROKEN, JSON, ByteBudget, HotRequest, Promise, Reply, error_reply

log = logging.getLogger(__name__)

PATH = re.compile(rb"/v2/models/([a-z0-9][a-z0-9-]{0,62})(?:/versions/([0-9]{1,9}))?/infer/?")
SOON_S = 1  # Retry-After of a 503 for which nothing better is known
MARKER = oip.HEADER.encode()
WORDS: tuple[tuple[type[Exception], Code], ...] = (
    (NotFoundError, "not-found"),
    (LateError, "deadline"),
    (TooLargeError, "too-large"),
    (ProtocolError, "invalid"),
)
ERRORS = (ProtocolError, NotFoundError, InferenceError, LateError)
_BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"


class InferHead(NamedTuple):
    """The facts in a request's line and headers.

    `marker` says that tensors follow the JSON, whose `length` it is, where it is a number.
    """

    model: str
    version: str
    coding: str | None
    marker: str | None
    length: int | None


class InferRoute:
    """Implements `fleet.serving.HotRoute` over one engine. `budget` is the listener's."""

    def __init__(self, engine: Engine, budget: ByteBudget) -> None:
        self._engine = engine
        self._budget = budget

    def begin(self, request: HotRequest) -> int | Reply | None:
        """The most bytes that the model's body may have; 403 for whoever may not ask; None for any other path."""
        if request.method != b"POST":
            return None
        head = request.context
        if head is None:  # else it is that of the same bytes
            match = PATH.fullmatch(request.target) or PATH.fullmatch(path_of(request.target))
            if match is None:
                return None
            reason = access.refused(request.headers, unix=request.unix)
            if reason:
                return error_reply(403, "forbidden", reason)
            head = request.context = _head(match[1].decode(), (match[2] or b"").decode(), request.headers)
        limit = self._engine.body_limit(head.model)
        return limit if head.marker is not None or limit < JSON_LIMIT else JSON_LIMIT

    def too_large(self, request: HotRequest, size: int) -> Reply:
        """413, which names the binary extension where that would help; it counts as a refusal of the model's."""
        model = request.context.model
        error = request_too_large(size, self._engine.body_limit(model), binary=request.context.marker is not None)
        self._engine.refuse(model, error)
        return error_answer(error)

    def answer(self, request: HotRequest) -> Reply | Promise | Awaitable[Reply]:
        """The answer, an error included; at once where that takes no time."""
        head: InferHead = request.context
        if head.coding is not None:
            return self._compressed(request)
        try:
            asked = self._read(head, request.body)
            found = self._engine.answer(head.model, head.version, asked, request.began, request.left)
            if type(found) is oip.InferResponse:
                return _reply(found, asked)
            if type(found) is InTurn:
                promise = Promise()
                found.hear = functools.partial(_hear, promise, asked)
                return promise
            return _later(cast(Awaitable[oip.InferResponse], found), asked)
        except ERRORS as error:
            return error_answer(error)

    async def _compressed(self, request: HotRequest) -> Reply:
        head: InferHead = request.context
        try:
            try:
                body = await self._inflated(request.body, head, self._engine.body_limit(head.model))
            except ProtocolError as error:
                self._engine.refuse(head.model, error)
                raise
            asked = self._read(head, body)
            found = await self._engine.infer(head.model, head.version, asked, request.began, request.left)
            return _reply(found, asked)
        except ERRORS as error:
            return error_answer(error)

    def _read(self, head: InferHead, body: bytes) -> oip.InferRequest:
        try:
            length = head.length if head.length is not None else oip.parse_header(head.marker)
            check_json(body, length)
            return oip.decode_request(body, length)
        except ProtocolError as error:
            self._engine.refuse(head.model, error)
            raise

    async def _inflated(self, body: bytes, head: InferHead, limit: int) -> bytes:
        binary = head.marker is not None
        size = min(request_limit(limit, binary=binary), INFLATED * len(body))
        if not self._budget.fits(size):
            raise InferenceError(self._budget.full(size), retry_after_s=SOON_S, busy=True)
        self._budget.taken += size
        try:
            # In a thread: a few bytes may inflate to the limit, and inflating holds no lock of the interpreter.
            return await asyncio.to_thread(inflate, body, head.coding or "", limit, binary=binary)
        finally:
            self._budget.taken -= size


def _head(model: str, version: str, headers: Mapping[bytes, bytes]) -> InferHead:
    coding, marker = headers.get(b"content-encoding"), headers.get(MARKER)
    said = None if marker is None else marker.decode("latin-1")
    try:
        length = oip.parse_header(said)
    except ProtocolError:  # which is told, and counted, when the body is here
        length = None
    return InferHead(model, version, None if coding is None else coding.decode("latin-1"), said, length)


def _hear(promise: Promise, asked: oip.InferRequest, found: Found) -> None:
    """Keep a promise, whatever has become of it."""
    if not isinstance(found, oip.InferResponse | Exception):
        promise.keep(_later(found, asked))
        return
    try:
        if isinstance(found, Exception):
            raise found
        reply = _reply(found, asked)
    except ERRORS as error:
        reply = error_answer(error)
    except Exception:  # the boundary, as the listener's: a fault costs one request
        log.exception("a request of the hot route failed")
        reply = BROKEN
    promise.keep(reply)


async def _later(found: Awaitable[oip.InferResponse], asked: oip.InferRequest) -> Reply:
    try:
        return _reply(await found, asked)
    except ERRORS as error:
        return error_answer(error)


def _reply(response: oip.InferResponse, asked: oip.InferRequest) -> Reply:
    check_answer(response, asked)
    body, head = oip.encode_response(response, asked)
    return Reply(200, JSON if head is None else _BINARY % head, body)


def path_of(target: bytes) -> bytes:
    """The path of a request's target, decoded; empty where it has none."""
    try:
        path: bytes = httptools.parse_url(target).path or b""
    except httptools.HttpParserInvalidURLError:
        return b""
    return unquote(path.decode("latin-1")).encode("utf-8", "surrogateescape") if b"%" in path else path


def refusal_of(error: Exception) -> Refusal:
    """Make the refusal that tells a caller of one of `ERRORS`, over HTTP and gRPC alike."""
    hint = getattr(error, "hint", "")
    text = f"{error}; {hint}" if hint else str(error)
    if isinstance(error, InferenceError):
        later = SOON_S if error.retry_after_s is None else error.retry_after_s
        return Refusal("busy" if error.busy else "unreachable", text, max(1, math.ceil(later)))
    return Refusal(next(word for kind, word in WORDS if isinstance(error, kind)), text)


def error_answer(error: Exception) -> Reply:
    """Status and JSON of one of `ERRORS`."""
    code, text, later_s = refusal_of(error)
    return error_reply(STATUS[code], code, text, b"retry-after: %d\r\n" % later_s if later_s else b"")
