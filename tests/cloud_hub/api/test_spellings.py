"""The protocol's paths are answered with a slash at the end and to HEAD; the others are as they were."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.cloud_hub.opening.test_server import listening
from tests.support.hub import HubFixture

INDEX = "/v2/repository/index"


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"])
def test_a_slash_at_the_end_and_head_are_taken(hub: HubFixture, path: str) -> None:
    auth = hub.auth(hub.token("application", scope="infer:any"))
    plain = hub.client.get(path, headers=auth)
    assert plain.status_code == 200
    slashed = hub.client.get(path + "/", headers=auth, follow_redirects=False)
    assert (slashed.status_code, slashed.json()) == (200, plain.json())
    for asked in (path, path + "/"):
        head = hub.client.head(asked, headers=auth, follow_redirects=False)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(plain.content))


def test_errors_are_those_of_the_same_path(hub: HubFixture) -> None:
    auth = hub.auth(hub.token("application", scope="infer:any"))
    assert hub.client.get("/v2/models/any/ready/", headers=auth, follow_redirects=False).status_code == 404
    assert hub.client.get("/v2/models/any/ready/").status_code == 401
    assert hub.client.head("/v2/models/any", headers=auth).status_code == 404
    for method, path, allowed in (("PUT", "/v2/", "GET"), ("HEAD", INDEX, "POST"), ("GET", INDEX + "/", "POST")):
        refused = hub.client.request(method, path, headers=auth, follow_redirects=False)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
    assert hub.client.post(INDEX + "/", headers=auth, follow_redirects=False).json() == []
    assert hub.client.get("/v2x/", follow_redirects=False).status_code == 404


def test_a_connection_goes_on_in_order_behind_head(hub: HubFixture) -> None:
    bearer = f"Host: a\r\nAuthorization: Bearer {hub.token('application', scope='infer:any')}\r\n"

    async def scenario() -> None:
        async with listening(hub) as (_, connect):
            client = await connect()
            await client.send(f"HEAD /v2/ HTTP/1.1\r\n{bearer}\r\n".encode())
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            await client.send(f"GET /v2/health/live/ HTTP/1.1\r\n{bearer}\r\n".encode())
            status, _, body = await client.answer()
            assert (status, json.loads(body)) == (200, {"live": True})

    asyncio.run(scenario())
