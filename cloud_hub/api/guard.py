"""A guard against NUL characters in paths, queries and headers, so that no route has to think of them.

Parameters and bodies are bounded by the types of `fleet.api.types`. This stands before all routes, in case that a type
was forgotten: no name, id or token holds a NUL, and PostgreSQL takes none.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from cloud_hub.api.errors import error_response


class RefuseNul:
    """ASGI middleware: HTTP 400 with the error document for a NUL outside of the body."""

    STATUS = 400  # that any operation may answer with, by this alone

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        where = _nul_in(scope) if scope["type"] == "http" else ""
        if not where:
            await self._app(scope, receive, send)
            return
        words = f"there is a NUL character in the {where}"
        answer = error_response(scope["path"], "invalid", words, subject=where)
        await answer(scope, receive, send)


def _nul_in(scope: Scope) -> str:
    if "\0" in scope["path"]:
        return "path"
    query: bytes = scope["query_string"]
    if b"\0" in query or b"%00" in query:
        return "query"
    return "headers" if any(b"\0" in value for _, value in scope["headers"]) else ""
