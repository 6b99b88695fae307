"""gRPC on the agent is another way to the same engine: records, fallback, budget and deadlines are those of HTTP."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError, LateError, UsageError
from edge_agent.serving.rpc import AgentInference, make_rpc_server, open_rpc
from fleet.protocol.channel import ModelEntry, Routing
from fleet.rpc import messages
from fleet.rpc.port import Bounds
from fleet.rpc.server import RpcServer
from tests.support import models
from tests.support.agent import Agent
from tests.support.server import answering, serving

SURE, UNSURE = np.array([[9, 0, 0, 0]], np.float32), np.zeros((1, 4), np.float32)


class Device:
    """An agent behind HTTP and gRPC, in one event loop."""

    def __init__(self, agent: Agent, channel: grpc.Channel) -> None:
        self.agent = agent
        self._ask = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer", None, messages.InferResponse.FromString)
        self.stream = channel.stream_stream(
            f"/{messages.SERVICE}/ModelStreamInfer", None, messages.StreamResponse.FromString
        )

    def ask(self, x: np.ndarray, **parameters: float) -> Any:
        return self.begin(x, **parameters).result()

    def begin(self, x: np.ndarray, **parameters: float) -> Any:
        request = messages.InferRequest(model_name="tiny", raw_input_contents=[x.tobytes()])
        request.inputs.add(name="input", datatype="FP32", shape=x.shape)
        for name, value in parameters.items():
            request.parameters[name].double_param = value
        return self._ask.future(request.SerializeToString(), timeout=60)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    agent = Agent(tmp_path)
    agent.follow(ModelEntry(release=1))
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake", threshold=0.6), None, None))
    inference = AgentInference(agent.engine, agent.app.about, agent.shared.budget)
    server = RpcServer(inference, "127.0.0.1:0", message_limit=1 << 20, bounds=Bounds(idle_s=0.05))
    with serving(**agent.listener) as (_, loop), answering(server, loop) as rpc, grpc.insecure_channel(rpc) as channel:
        yield Device(agent, channel)
    agent.database.close()


def refused(device: Device, x: np.ndarray = SURE, **parameters: float) -> tuple[str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        device.ask(x, **parameters)
    return caught.value.code().name, dict(caught.value.trailing_metadata())


def test_an_unsure_request_is_deferred_and_counted(device: Device) -> None:
    assert device.ask(SURE).parameters["served_by"].string_param == "edge"
    answer = device.ask(UNSURE)
    assert (answer.parameters["served_by"].string_param, len(device.agent.cloud.asked)) == ("cloud", 1)
    assert 0.0 < answer.parameters["confidence"].double_param < 0.6
    counted = device.agent.metrics.render().decode()
    for who in ("edge", "cloud"):
        assert f'edge_inference_requests_total{{model="tiny",served_by="{who}"' in counted


def test_refusals_are_the_releases(device: Device) -> None:
    served = device.agent.slots.find("tiny")
    assert served is not None
    assert refused(device, np.zeros((1, 5), np.float32)) == ("INVALID_ARGUMENT", {"edgeloop-code": "invalid"})
    assert served.refused == 1
    assert refused(device, SURE, deadline_ms=1e-6) == ("DEADLINE_EXCEEDED", {"edgeloop-code": "deadline"})


def test_bodies_share_one_budget_with_http(device: Device) -> None:
    budget = device.agent.shared.budget
    before, budget.limit = budget.limit, 10
    assert refused(device) == ("UNAVAILABLE", {"edgeloop-code": "busy", "retry-after": "1"})
    budget.limit = before
    assert device.ask(SURE).model_version == "1" and budget.taken == 0


def test_nobody_who_could_answer_says_when_to_come_back(device: Device) -> None:
    device.agent.follow(ModelEntry(release=1, routing=Routing(cloud=False)))
    device.agent.slots.find("tiny").run = None  # type: ignore[method-assign, union-attr, assignment]
    assert refused(device) == ("UNAVAILABLE", {"edgeloop-code": "unreachable", "retry-after": "1"})


def test_a_message_beyond_the_limit_is_not_read(device: Device) -> None:
    code, _ = refused(device, np.zeros((1 << 16, 4), np.float32))
    assert code == "RESOURCE_EXHAUSTED"


def test_a_stream_that_lies_still_is_ended(device: Device) -> None:
    def still() -> Iterator[bytes]:
        yield b""
        ended.wait()

    ended = threading.Event()
    stream = device.stream(still())
    assert next(stream).error_message
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    ended.set()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED and "no request came" in caught.value.details()


def test_what_cannot_be_served_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(tmp_path)
    inference = AgentInference(agent.engine, agent.app.about, agent.shared.budget)
    with pytest.raises(UsageError, match="loopback only"):
        make_rpc_server(AgentConfig(dir=tmp_path, host="0.0.0.0", grpc_port=0), inference)
    monkeypatch.delitem(sys.modules, "fleet.rpc.server")
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setitem(sys.modules, "grpc.aio", None)
    with pytest.raises(AgentError, match="gRPC is not installed") as caught:
        make_rpc_server(AgentConfig(dir=tmp_path, grpc_port=0), inference)
    assert "edgeloop[grpc]" in caught.value.hint


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    inference = AgentInference(agent.engine, agent.app.about, agent.shared.budget)

    async def twice() -> None:
        _, port = RpcServer(inference, "127.0.0.1:0", message_limit=1).bind()
        config = AgentConfig(dir=tmp_path, grpc_port=port)
        with pytest.raises(AgentError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            open_rpc(config, agent.engine, agent.app.about, agent.shared.budget)
        assert "--grpc-port" in caught.value.hint

    asyncio.run(twice())


def test_who_hangs_up_is_known_to_have_gone(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes count until the engine is done with it."""
    engine, begun, left, ended = device.agent.engine, threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []

    async def waits(model: str, version: str, request: Any, began: float, gone: Any) -> Any:
        seen.append(gone())
        begun.set()
        await asyncio.to_thread(left.wait)
        while not gone():
            await asyncio.sleep(0)
        seen.extend((gone(), device.agent.shared.budget.taken > 0))
        ended.set()
        raise LateError("the caller has gone")

    monkeypatch.setattr(engine, "infer", waits)
    call = device.begin(SURE)
    assert begun.wait(60)
    call.cancel()
    left.set()
    assert ended.wait(60) and seen == [False, True, True]
    monkeypatch.undo()
    assert device.ask(SURE).model_version == "1" and device.agent.shared.budget.taken == 0


def test_the_deadline_of_the_call_is_one_of_the_request(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = device.agent.engine, []
    whole = engine.infer

    async def looks(model: str, version: str, request: Any, *more: Any) -> Any:
        seen.append(request.parameters["deadline_ms"])
        return await whole(model, version, request, *more)

    monkeypatch.setattr(engine, "infer", looks)
    device.ask(SURE)  # within 60 s, as every call of this test
    device.ask(SURE, deadline_ms=50_000.0)
    device.ask(SURE, deadline_ms=70_000.0)
    least, most = 50_000, 65_000  # grpc rounds a time-out up
    assert least < seen[0] < most and seen[1] == 50_000 and least < seen[2] < most
