"""Spans of an agent: what they say, what they belong to, and that without traces not one step is taken for them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edge_agent.config import AgentConfig, TracingConfig, load_config
from edge_agent.errors import LateError, NotFoundError, UsageError
from edge_agent.serving.endpoint import Endpoint
from edge_agent.serving.engine import Engine
from edge_agent.serving.infer import InferRoute
from edge_agent.serving.remote import RemoteServers
from edge_agent.serving.rpc import AgentInference
from edge_agent.serving.tracing import carried_to_others, make_tracer
from fleet.protocol.channel import ModelEntry, Remote, Routing
from fleet.rpc import messages
from fleet.rpc.server import RpcServer
from fleet.serving import HotRequest
from fleet.tracing import OFF
from tests.edge_agent.serving.test_remote import Server as RemoteServer
from tests.support import models
from tests.support.agent import Agent
from tests.support.server import answering, serving
from tests.support.traces import PARENT, SPAN, TRACE, Kept

SURE, UNSURE = np.array([[9, 0, 0, 0]], np.float32), np.zeros((1, 4), np.float32)
PATH = "/v2/models/tiny/infer"


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def agent(tmp_path: Path, kept: Kept) -> Agent:
    made = Agent(tmp_path, tracer=kept.tracer("agent"))
    made.follow(ModelEntry(release=1))
    return made


async def begun(agent: Agent) -> Agent:
    await agent.slots.activate(models.release(agent.blobs, data=b"fake", threshold=0.6), None, None)
    return agent


def body_of(x: np.ndarray) -> bytes:
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def ask(address: str, x: np.ndarray, **headers: str) -> dict[str, Any]:
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", PATH, body_of(x), headers)
    answer = connection.getresponse()
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.read())
    connection.close()
    return found


def facts(span: Any) -> dict[str, Any]:
    return {name.removeprefix("edgeloop."): value for name, value in span.attributes.items()}


def test_a_request_over_http_is_a_child_of_its_callers_span(agent: Agent, kept: Kept) -> None:
    asyncio.run(begun(agent))
    with serving(**agent.listener) as (address, _):
        ask(address, SURE, traceparent=PARENT)
    request, run = kept.one("agent", "infer tiny"), kept.one("agent", "run")
    assert (request.context.trace_id, request.parent.span_id) == (TRACE, SPAN)
    assert (run.context.trace_id, run.parent.span_id) == (TRACE, request.context.span_id)
    said = facts(request)
    assert said["model"] == "tiny" and said["release"] == 1 and said["served_by"] == "edge"
    assert said["confidence"] > 0.9 and said["degraded"] is False and said["variant"] == facts(run)["variant"]
    assert request.start_time <= run.start_time <= run.end_time <= request.end_time


def test_a_deferred_request_has_its_call_and_the_reason_why_it_failed(agent: Agent, kept: Kept) -> None:
    async def scenario() -> None:
        await begun(agent)
        await agent.ask(UNSURE)
        agent.cloud.cut()
        await agent.ask(UNSURE)

    asyncio.run(scenario())
    good, bad = kept.spans["agent", "fallback"]
    first, second = kept.spans["agent", "infer tiny"]
    assert [one.parent.span_id for one in (good, bad)] == [one.context.span_id for one in (first, second)]
    assert facts(first)["served_by"] == "cloud" and facts(good)["server"] == "hub" and good.status.is_ok is True
    assert facts(bad)["fallback_reason"] == facts(second)["fallback_reason"] == "unreachable"
    assert not bad.status.is_ok and facts(second)["degraded"] is True


def test_requests_of_one_turn_are_told_apart(agent: Agent, kept: Kept) -> None:
    async def scenario() -> list[Any]:
        await begun(agent)
        return await asyncio.gather(*(agent.ask(x) for x in (SURE, UNSURE, SURE, UNSURE)))

    asyncio.run(scenario())
    spans = kept.spans["agent", "infer tiny"]
    assert sorted(facts(one)["served_by"] for one in spans) == ["cloud", "cloud", "edge", "edge"]
    assert len({one.context.trace_id for one in spans}) == 4
    owners = {one.context.span_id: facts(one)["served_by"] for one in spans}
    assert sorted(owners[one.parent.span_id] for one in kept.spans["agent", "run"]) == sorted(owners.values())
    assert [owners[one.parent.span_id] for one in kept.spans["agent", "fallback"]] == ["cloud", "cloud"]


def test_a_request_that_comes_to_nothing_ends_its_span(agent: Agent, kept: Kept) -> None:
    async def scenario() -> None:
        await begun(agent)
        with pytest.raises(NotFoundError):
            await agent.ask(SURE, version="77")
        with pytest.raises(LateError):
            await agent.ask(SURE, deadline_ms=0.000001)

    asyncio.run(scenario())
    spans = kept.spans["agent", "infer tiny"]
    assert len(spans) == 2 and all(not one.status.is_ok and one.status.description for one in spans)


def test_a_call_over_grpc_goes_on_in_the_trace_of_its_metadata(agent: Agent, kept: Kept) -> None:
    asyncio.run(begun(agent))
    inference = AgentInference(agent.engine, agent.app.about, agent.shared.budget, kept.tracer("agent"))
    server = RpcServer(inference, "127.0.0.1:0", message_limit=1 << 20)
    request = messages.InferRequest(model_name="tiny", raw_input_contents=[SURE.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=SURE.shape)
    with serving(**agent.listener) as (_, loop), answering(server, loop) as rpc, grpc.insecure_channel(rpc) as channel:
        call = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer", None, messages.InferResponse.FromString)
        call(request.SerializeToString(), metadata=(("traceparent", PARENT),), timeout=60)
        call(request.SerializeToString(), timeout=60)
    first, second = kept.spans["agent", "infer tiny"]
    assert (first.context.trace_id, first.parent.span_id) == (TRACE, SPAN)
    assert second.parent is None and second.context.trace_id != TRACE


def test_another_server_is_told_the_trace(tmp_path: Path, kept: Kept) -> None:
    server = RemoteServer(lambda path, headers, body: (500, {}, b"{}"))
    tracer = kept.tracer("agent")
    remotes = RemoteServers({}, lambda up, down: None, carried=tracer.carried)
    agent = Agent(tmp_path, tracer=tracer)
    agent.engine.cloud.endpoint = Endpoint(agent.cloud, remotes.server)
    remote = Remote(url=f"http://127.0.0.1:{server.server_port}")
    agent.follow(ModelEntry(release=1, routing=Routing(remote=remote, deadline_ms=60_000)))

    async def scenario() -> None:
        await begun(agent)
        await agent.ask(UNSURE)

    threading.Thread(target=server.serve_forever, daemon=True).start()
    asyncio.run(scenario())
    server.shutdown()
    server.server_close()
    call = kept.one("agent", "fallback")
    assert facts(call)["server"] == remote.url
    expected = f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}"
    assert server.asked and all(headers["traceparent"].startswith(expected) for _, headers, _ in server.asked)
    remotes.close()


def steps_of(agent: Agent) -> int:
    """Lines that the interpreter runs for one request of the hot route."""
    request = HotRequest(b"POST", PATH.encode(), {b"host": b"127.0.0.1:8200"}, 0.0, unix=False)
    route, lines = agent.shared.route, 0

    def watch(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return watch

    assert isinstance(route.begin(request), int)
    request.body = body_of(SURE)
    sys.settrace(watch)
    try:
        route.answer(request)
    finally:
        sys.settrace(None)
    return lines


def test_without_traces_a_request_takes_the_same_steps_as_if_there_were_none(tmp_path: Path) -> None:
    agent = Agent(tmp_path, tracer=OFF)
    agent.follow(ModelEntry(release=1))
    assert type(agent.engine) is Engine and type(agent.shared.route) is InferRoute

    async def scenario() -> tuple[int, int]:
        await begun(agent)
        for _ in range(3):
            steps_of(agent)
            await asyncio.sleep(0)
        through = steps_of(agent)
        await asyncio.sleep(0)
        agent.shared.route = InferRoute(agent.engine, agent.shared.budget)  # what an agent had before there were traces
        return through, steps_of(agent)

    through, plain = asyncio.run(scenario())
    assert through == plain > 50


def test_settings(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('[tracing]\nendpoint = "http://127.0.0.1:4318/v1/traces"\nratio = 0.5\n')
    assert load_config(tmp_path, environ={}).tracing == TracingConfig(
        endpoint="http://127.0.0.1:4318/v1/traces", ratio=0.5
    )
    assert make_tracer(AgentConfig(dir=tmp_path), "cam-1") is OFF
    with pytest.raises(UsageError, match="endpoint is no address"):
        make_tracer(AgentConfig(dir=tmp_path, tracing=TracingConfig(endpoint="collector")), "cam-1")
    kept = Kept()
    with (tracer := kept.tracer("agent")).following({"traceparent": PARENT, "tracestate": "other=1"}):
        told = TracingConfig(state_to_others=True)
        assert carried_to_others(AgentConfig(dir=tmp_path), tracer)() == {"traceparent": PARENT}
        assert carried_to_others(AgentConfig(dir=tmp_path, tracing=told), tracer)() == tracer.carried()
        assert tracer.carried() == {"traceparent": PARENT, "tracestate": "other=1"}
    (tmp_path / "agent.toml").write_text("[tracing]\nratio = 2\n")
    with pytest.raises(UsageError, match="ratio"):
        load_config(tmp_path, environ={})
