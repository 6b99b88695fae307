"""Request bodies: JSON into the models of `fleet.api`, with refusals that say which field, what is wrong, what to do.

    def route(caller: Admin, wanted: Annotated[NewToken, JsonBody(NewToken)]) -> …

The caller stands before the body, so that nobody's body is read before it is known who sends it. `BodyLimit` has
bounded its size before a byte comes here.
"""

# Annotations stay values here: FastAPI cannot resolve text in the methods of objects.

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.params import Depends
from pydantic import ValidationError

from cloud_hub.errors import DeadlineError, InvalidError, TooLargeError
from fleet.api.base import RequestModel as RequestModel
from fleet.api.types import PATTERNS
from fleet.protocol.bounds import whole_number
from fleet.serving import LIMIT_S

UPLOADS = "edgeloop.uploads"  # in a request's scope, while its body may take longer than others'
T = TypeVar("T", bound=RequestModel)


class BodyReader(Generic[T]):
    """A dependency that reads the body as `kind`. An empty body is `{}`; the content type is not looked at."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    async def __call__(self, request: Request) -> T:
        """The body; InvalidError names the first field that is wrong."""
        try:
            return self.kind.model_validate_json(await request.body() or b"{}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where, what, hint = invalid_field(first, tuple(self.kind.model_fields))
            text = f"request body: {where}: {what}" if where else f"request body: {what}"
            raise InvalidError(text, subject=where or "body", hint=hint) from error


def JsonBody(kind: type[RequestModel]) -> Depends:
    """The marker of a parameter that is the request's JSON body."""
    return Depends(BodyReader(kind))


def invalid_field(error: Mapping[str, Any], fields: tuple[str, ...] = ()) -> tuple[str, str, str]:
    """Return the field, the fault and the remedy that one of pydantic's errors tells.

    Args:
        error: an entry of `ValidationError.errors()`.
        fields: the fields that the outermost document has, for the hint on an unknown one.
    """
    kind, path = error["type"], [str(part) for part in error["loc"]]
    context = error.get("ctx") or {}
    where = ".".join(path)
    if kind == "json_invalid":
        return where, f"this is not JSON: {context.get('error', '')}", ""
    if kind == "missing":
        return where, f"the field {path[-1]!r} is missing", ""
    if kind == "extra_forbidden":
        hint = f"one of: {', '.join(sorted(fields))}" if len(path) == 1 else ""
        return ".".join(path[:-1]), f"there is no field {path[-1]!r}", hint
    if kind == "string_pattern_mismatch":
        return where, PATTERNS.get(context.get("pattern", ""), str(error["msg"])), ""
    if kind == "value_error":
        return where, str(context.get("error", error["msg"])), ""
    text = str(error["msg"])
    return where, text.replace("Input should", "it should", 1) if text.startswith("Input should") else text, ""


async def uploaded(request: Request) -> AsyncIterator[bytes]:
    """The pieces of a body that may take minutes, as long as some of it comes every `LIMIT_S["body"]` seconds.

    For routes that know their caller: the listener ends the connection of any other body that is not here by then.

    Raises:
        DeadlineError: nothing came for so long.
    """
    limit_s, stream = LIMIT_S["body"], request.stream()
    request.scope[UPLOADS] = True
    while True:
        try:
            async with asyncio.timeout(limit_s):
                piece = await anext(stream, None)
        except TimeoutError:
            raise DeadlineError(f"nothing came of the body for {limit_s:g} s", subject="body") from None
        if piece is None:
            return
        yield piece


async def read_upload(request: Request, limit: int, *, hint: str = "") -> bytes:
    """As `read_body`, in the time of `uploaded`.

    Raises:
        TooLargeError: more than `limit` bytes. DeadlineError: as `uploaded`.
    """
    return await _gathered(request, uploaded(request), limit, hint)


async def read_body(request: Request, limit: int, *, hint: str = "") -> bytes:
    """The request's body, refused above `limit` bytes before it is gathered whole; `hint` says why there is one."""
    return await _gathered(request, request.stream(), limit, hint)


async def _gathered(request: Request, pieces: AsyncIterator[bytes], limit: int, hint: str) -> bytes:
    declared = whole_number(request.headers.get("content-length", ""))
    if declared is not None and declared > limit:
        raise TooLargeError(f"the body has {declared} bytes, at most {limit} are allowed", subject="body", hint=hint)
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > limit:
            raise TooLargeError(f"the body has more than {limit} bytes", subject="body", hint=hint)
    return bytes(body)
