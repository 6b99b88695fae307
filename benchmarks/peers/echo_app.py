"""Not a server of models: as many bytes as our answer has, from a bare ASGI function that reads the body."""

from __future__ import annotations

import os
from typing import Any

ANSWER = b"x" * int(os.environ["PEER_ANSWER"])
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", b"298"),
        (b"content-length", b"%d" % len(ANSWER)),
    ],
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """One request."""
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send({"type": "http.response.body", "body": ANSWER})
