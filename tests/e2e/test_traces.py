"""One trace from the application through the agent and the hub to the model, over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cloud_hub.app import create_app
from edge_agent.serving.cloud import HubCloud
from fleet.protocol.channel import ModelEntry, Routing
from fleet.protocol.manifest import encode_manifest
from fleet.serving import hot_protocol
from tests.support import models
from tests.support.agent import Agent
from tests.support.hub import make_hub
from tests.support.server import serving
from tests.support.traces import PARENT, SPAN, TRACE, Kept

UNSURE = np.zeros((1, 4), np.float32)


class Said(NamedTuple):
    """`edge_agent.ports.HubResponse`."""

    status: int
    data: bytes
    headers: Mapping[str, str]


class Calls:
    """`edge_agent.ports.HubCalls` over a connection for each call."""

    def __init__(self, address: str, token: str) -> None:
        self._address, self._token = address, token

    def request(self, method: str, path: str, body: Any = None, headers: Any = None, timeout: float = 30.0) -> Said:
        connection = HTTPConnection(self._address, timeout=60)
        connection.request(method, path, body, {**(headers or {}), "authorization": f"Bearer {self._token}"})
        answer = connection.getresponse()
        said = Said(answer.status, answer.read(), {key.lower(): value for key, value in answer.getheaders()})
        connection.close()
        return said


def test_one_trace_joins_application_agent_hub_and_model(tmp_path: Path) -> None:
    kept, hub = Kept(), make_hub(tmp_path / "hub")
    hub.model("tiny")
    made = models.release(tmp_path / "blobs", cloud=True, threshold=0.6)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test")
    app = create_app(hub.hub, tracer=kept.tracer("hub", ratio=0.0))
    agent_tracer = kept.tracer("agent", ratio=0.0)
    token = hub.token("application", scope="infer:tiny")
    with serving(app, http=hot_protocol(app.state.inference.shared)) as (hub_address, _):
        cloud = HubCloud(Calls(hub_address, token), carried=agent_tracer.carried)  # type: ignore[arg-type]
        agent = Agent(tmp_path / "agent", cloud=cloud, tracer=agent_tracer)
        agent.follow(ModelEntry(release=1, routing=Routing(deadline_ms=60_000)))
        asyncio.run(
            agent.slots.activate(models.release(agent.blobs, data=b"fake", threshold=0.6, cloud=True), None, None)
        )
        with serving(**agent.listener) as (address, _):
            answers = [ask(address, {"traceparent": PARENT}) for _ in range(2)]  # the second is on the hub's hot route
            untraced = ask(address, {})
    assert [one["parameters"]["served_by"] for one in [*answers, untraced]] == ["cloud"] * 3
    spans = kept.spans
    ours = [("agent", "infer tiny"), ("agent", "run"), ("agent", "fallback"), ("hub", "infer tiny"), ("hub", "run")]
    assert {name: len(found) for name, found in spans.items()} == dict.fromkeys(ours, 2)
    assert {one.context.trace_id for found in spans.values() for one in found} == {TRACE}
    by_id = {one.context.span_id: one for found in spans.values() for one in found}
    for run in spans["hub", "run"]:
        way = [run]
        while way[-1].parent.span_id in by_id:
            way.append(by_id[way[-1].parent.span_id])
        assert [one.name for one in way] == ["run", "infer tiny", "fallback", "infer tiny"]
        assert way[-1].parent.span_id == SPAN
        assert way[0].attributes["edgeloop.release"] == 1 and way[1].attributes["edgeloop.status"] == 200
    app.state.inference.close()


def ask(address: str, headers: dict[str, str]) -> dict[str, Any]:
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": UNSURE.ravel().tolist()}]}
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", "/v2/models/tiny/infer", json.dumps(body), headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status == 200, data
    found: dict[str, Any] = json.loads(data)
    return found
