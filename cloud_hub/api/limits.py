"""Refuses request bodies that are too large, whatever route would have read them."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_hub.api.errors import error_response
from cloud_hub.config_tables import LimitsConfig
from fleet.protocol.bounds import whole_number
from fleet.protocol.messages import HELD_LIMIT


class _TooLargeSignalError(Exception):
    """More bytes came than the path allows."""


class BodyLimit:
    """ASGI middleware: counts the body's bytes, declared or not, against the path's limit."""

    STATUS = 413  # that any operation may answer with, by this alone

    def __init__(self, app: ASGIApp, limits: LimitsConfig) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting `receive`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, seen, started = self._limit(scope["path"]), 0, False
        words = f"the body has more than {limit} bytes"
        refusal = error_response(scope["path"], "too-large", words, subject="body")

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _TooLargeSignalError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        declared = whole_number(dict(scope["headers"]).get(b"content-length", b"").decode("latin-1"))
        if declared is not None and declared > limit:
            await refusal(scope, receive, send)
            return
        try:
            await self._app(scope, counted, watched)
        except _TooLargeSignalError:
            if started:
                raise
            await refusal(scope, receive, send)

    def _limit(self, path: str) -> int:
        if path.startswith("/api/v1/blobs/"):
            return self._limits.blob
        if path == "/device/samples":
            return self._limits.samples_body
        if path == "/device/held":
            return HELD_LIMIT
        if path.startswith("/v2/"):
            return self._limits.infer_body
        return self._limits.body
