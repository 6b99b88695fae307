"""The protocol's paths as an agent takes them: with a slash at the end, and asked by HEAD."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/v2"


class TakeSpellings:
    """ASGI middleware around all others: below `/v2` it takes away one slash at the end, and makes GET of HEAD.

    A client that is sent elsewhere gets an answer without a body, and few of the protocol's clients follow it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on in the spelling that the routes have."""
        path = scope["path"] if scope["type"] == "http" else ""
        if not path.startswith(PREFIX + "/") and path != PREFIX:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            send = _without_body(send)
            scope = {**scope, "method": "GET"}
        if path.endswith("/"):
            scope = {**scope, "path": path.removesuffix("/")}
        await self._app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent
