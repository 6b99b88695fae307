"""The hub's hot route: what is kept in memory, what a request may cost, and how long it may take."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPSConnection
from typing import Any

import numpy as np
import pytest

from cloud_hub.app import create_app
from cloud_hub.identity.tokens import revoke_token
from cloud_hub.inference.batching import run_costs
from fleet.protocol import oip
from fleet.protocol.manifest import encode_manifest
from fleet.runtimes.cost import JSON_LIMIT
from fleet.serving import hot_protocol
from tests.fleet.serving.listener import noted
from tests.support import models
from tests.support.hub import HubFixture, make_hub
from tests.support.locks import until
from tests.support.server import serving

PATH = "/v2/models/tiny/infer"
ROW = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    folder = tmp_path_factory.mktemp("hub")
    hub = make_hub(folder, limits={"infer_body": 4 << 20}, inference={"in_flight": 5 << 20})
    hub.model("tiny")
    made = models.release(folder / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test")
    return hub


@pytest.fixture
def token(published: HubFixture) -> str:
    return published.token("application", scope="infer:tiny")


class Counted:
    """An ASGI application that counts its requests when they come, so before any of them is answered."""

    def __init__(self, app: Any) -> None:
        self.app, self.requests = app, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        await self.app(scope, receive, send)


class Client:
    """One connection to the hub's listener, and how often its requests came as far as ASGI."""

    def __init__(self, address: str, counted: Counted, token: str) -> None:
        self._connection, self._counted, self.token = HTTPConnection(address, timeout=20), counted, token
        self._app = counted.app

    def ask(self, body: bytes | Any = b"", path: str = PATH, **headers: str) -> tuple[int, dict[str, str], bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {self.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        self._connection.request("POST", path, data, given)
        answer = self._connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    @property
    def through_asgi(self) -> int:
        return self._counted.requests


@pytest.fixture
def client(published: HubFixture, token: str) -> Iterator[Client]:
    app = create_app(published.hub)
    app.state.inference.freshness._now = lambda: 0.0  # a slow machine looks no more often
    counted = Counted(app)
    with serving(counted, http=hot_protocol(app.state.inference.shared)) as (address, _):
        yield Client(address, counted, token)
    app.state.inference.close()


def test_the_first_request_reads_the_database_and_the_others_do_not(client: Client) -> None:
    x = models.inputs(3)
    asked = oip.InferRequest(inputs=(oip.TensorValue("input", x),), binary_outputs=oip.ALL)
    body, head = oip.encode_request(asked)
    for n in range(4):
        status, headers, data = client.ask(body, **{oip.HEADER: str(head)})
        assert status == 200
        answer = oip.decode_response(data, oip.parse_header(headers[oip.HEADER]))
        np.testing.assert_allclose(answer.outputs[0].array, models.answer(x), atol=1e-5)
        assert client.through_asgi == 1, n


def test_a_slash_at_the_end_is_taken_in_either_way(client: Client) -> None:
    answers = [client.ask(ROW, PATH + "/") for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 200]
    assert client.through_asgi == 1  # the first, whose caller is not known yet


def test_a_revocation_in_this_process_is_obeyed_at_once(client: Client, published: HubFixture) -> None:
    assert [client.ask(ROW)[0] for _ in range(2)] == [200, 200]
    with published.hub.session() as session:
        revoke_token(session, client.token.split(".")[1], now=published.clock())
    status, headers, text = client.ask(ROW)
    assert (status, headers.get("www-authenticate")) == (401, "Bearer"), text
    seen = client.through_asgi
    assert client.ask(ROW)[0] == 401
    assert client.through_asgi == seen  # a refusal is kept, too


@pytest.mark.parametrize("cold", [True, False])
def test_what_a_request_may_cost_is_known_before_it_is_paid(client: Client, cold: bool) -> None:
    """The same on the hot route and, for the first request, through ASGI."""
    if not cold:
        assert client.ask(ROW)[0] == 200
    for body, headers, word in [
        (b" " * (JSON_LIMIT + 1), {}, "binary extension"),
        (b" " * (3 << 20), {}, "binary extension"),
        (gzip.compress(b" " * (3 << 20)), {"content_encoding": "gzip"}, "binary extension"),
        (b"x" * (4 << 20), {oip.HEADER: "10"}, "at most"),
    ]:
        status, _, text = client.ask(body, **headers)
        assert status == 413 and word in json.loads(text)["error"]
        client._connection.close()


def test_values_are_counted_before_arrays_exist(client: Client) -> None:
    many = {"inputs": [{"name": "input", "shape": [100_001], "datatype": "FP32", "data": [0] * 100_001}]}
    status, _, text = client.ask(many)
    assert status == 413 and "values" in json.loads(text)["error"]


@pytest.mark.parametrize(
    ("parameters", "status", "word"),
    [
        ({"timeout": 1}, 504, "time"),
        ({"deadline_ms": 0.0001}, 504, "time"),
        ({"timeout": "soon"}, 400, "timeout"),
        ({"timeout": [1]}, 400, "timeout"),
        ({"timeout_ms": -1}, 400, "timeout_ms"),
        ({"deadline_ms": True}, 400, "deadline_ms"),
        ({"deadline_ms": 1e300}, 200, ""),
        ({"timeout_ms": 10_000.5}, 200, ""),
    ],
)
def test_deadlines(client: Client, parameters: dict[str, Any], status: int, word: str) -> None:
    assert client.ask(ROW)[0] == 200
    found, _, text = client.ask({**ROW, "parameters": parameters})
    assert (found, word in text.decode()) == (status, True)


def test_what_all_requests_hold_together_is_bounded(client: Client) -> None:
    assert client.ask(ROW)[0] == 200
    budget = client._app.state.inference.budget
    budget.taken += (5 << 20) - 10  # others' bodies
    status, headers, text = client.ask(ROW)
    assert (status, headers["retry-after"]) == (503, "1") and "bodies of other requests" in text.decode()
    status, headers, _ = client.ask(gzip.compress(json.dumps(ROW).encode()), content_encoding="gzip")
    assert (status, headers["retry-after"]) == (503, "1")
    budget.taken -= (5 << 20) - 10
    assert client.ask(gzip.compress(json.dumps(ROW).encode()), content_encoding="gzip")[0] == 200
    assert budget.taken == 0


def test_refusals_are_json_with_their_status(client: Client, published: HubFixture) -> None:
    assert client.ask(ROW)[0] == 200
    for _ in range(2):  # first from the database, then from memory
        assert client.ask(ROW, "/v2/models/other/infer")[0] == 403
        assert client.ask(ROW, f"/v2/models/tiny/versions/7{PATH[-6:]}")[0] == 404
    status, _, text = client.ask(b"{")
    assert status == 400 and json.loads(text)["error"]
    client.token = "el1.unknown.secret"
    assert [client.ask(ROW)[0] for _ in range(2)] == [401, 401]


def test_a_queued_request_whose_client_has_gone_is_not_run(client: Client, monkeypatch) -> None:
    assert client.ask(ROW)[0] == 200
    batcher = client._app.state.inference.loaded.find("tiny", "").batcher
    (lane, *_), entered, go_on, runs = batcher._free, threading.Event(), threading.Event(), []
    monkeypatch.setattr(batcher, "_free", [lane])
    monkeypatch.setattr(batcher, "_costs", run_costs())  # unknown: in a thread
    run = lane.run
    monkeypatch.setattr(lane, "run", lambda x: (runs.append(x), entered.set(), go_on.wait(60), run(x))[-1])
    seen = noted(client._app.state.inference.shared.route)
    with ThreadPoolExecutor(1) as pool:
        stays = pool.submit(client.ask, ROW)
        assert entered.wait(60)
        goes = HTTPConnection(client._connection.host, client._connection.port, timeout=20)
        goes.request("POST", PATH, json.dumps(ROW), {"Authorization": f"Bearer {client.token}"})
        until(lambda: batcher.waiting)
        goes.close()
        until(lambda: seen[1].gone)
        go_on.set()
        assert stays.result(60)[0] == 200
    assert client.ask(ROW)[0] == 200
    assert (len(runs), batcher.waiting, client._app.state.inference.budget.taken) == (2, 0, 0)


def test_queues_and_answers_can_be_scraped(client: Client) -> None:
    assert [client.ask(ROW)[0] for _ in range(3)] == [200] * 3
    registry = client._app.state.registry
    labels = {"model": "tiny", "release": "1"}
    assert registry.get_sample_value("edgeloop_hub_inference_waiting", labels) == 0
    assert registry.get_sample_value("edgeloop_hub_inference_running", labels) == 0
    assert registry.get_sample_value("edgeloop_hub_inference_answers_total", {"status": "200"}) == 3
    assert registry.get_sample_value("edgeloop_hub_inference_seconds_count") == 3


def test_over_tls(published: HubFixture, token: str) -> None:
    app, config = create_app(published.hub), published.hub.config
    files = {"ssl_certfile": str(config.server_certificate), "ssl_keyfile": str(config.server_key)}
    with serving(app, http=hot_protocol(app.state.inference.shared), **files) as (address, _):
        trusting = ssl._create_unverified_context()  # the test's clock has made the certificate
        connection = HTTPSConnection(address, context=trusting, timeout=20)
        for _ in range(2):
            connection.request("POST", PATH, json.dumps(ROW), {"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["model_version"]) == (200, "1")
    app.state.inference.close()
