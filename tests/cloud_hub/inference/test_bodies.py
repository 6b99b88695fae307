"""Bodies that a route reads itself: counted in the budget, and not for ever."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.app import create_app
from cloud_hub.inference import routes
from fleet.protocol.repository import INDEX_BODY
from tests.support import models
from tests.support.hub import HubFixture


async def ask(app: Any, path: str, token: str, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """The answer to a body of which `pieces` come, and no end."""
    come = iter(pieces)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        for piece in come:
            return {"type": "http.request", "body": piece, "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    async with asyncio.timeout(60):
        await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize("path", ["models/any/infer_async", "models/any/infer", "repository/index"])
def test_a_body_that_trickles_ends_and_gives_its_bytes_back(
    hub: HubFixture, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    serve(models.release(tmp_path / "blobs", cloud=True))
    app = create_app(hub.hub)
    monkeypatch.setitem(routes.LIMIT_S, "body", 0.01)
    status, document = asyncio.run(ask(app, f"/v2/{path}", hub.token("application", scope="infer:any"), b'{"in', b"p"))
    assert (status, document["code"]) == (504, "deadline") and "5 bytes" in document["error"]
    assert app.state.inference.budget.taken == 0
    app.state.inference.close()


def test_a_request_for_the_index_has_a_bound_of_its_own_and_counts(hub: HubFixture) -> None:
    app, token = create_app(hub.hub), hub.token("application", scope="infer:any")
    budget = app.state.inference.budget
    status, document = asyncio.run(ask(app, "/v2/repository/index", token, b" " * INDEX_BODY, b" "))
    assert (status, document["code"]) == (413, "too-large")
    budget.limit = 1
    status, document = asyncio.run(ask(app, "/v2/repository/index", token, b"{}"))
    assert (status, document["code"], budget.taken) == (503, "busy", 0)
    app.state.inference.close()
