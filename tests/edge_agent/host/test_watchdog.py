"""The agent that stands still: who notices, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.host import watchdog
from edge_agent.host.notify import ServiceManager
from edge_agent.host.watchdog import EXIT, Patience, Runs, Watchdog
from edge_agent.update.disk.state import StateFile, read_state
from edge_agent.update.rules.model_state import ModelState, UpdateTarget
from fleet.protocol.channel import Probation
from tests.support import models
from tests.support.agent_process import enrolled, running

NOBODY = ServiceManager("")
HANGS = 1000.0  # an input above 100 does


def hanging_onnx() -> bytes:
    """The tiny classifier, which loops for ever on a large input."""
    one = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Identity", ["v"], ["v_out"])],
        "body",
        [one("i", TensorProto.INT64, []), one("on", TensorProto.BOOL, []), one("v", TensorProto.FLOAT, None)],
        [one("on_out", TensorProto.BOOL, []), one("v_out", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "w", "b"], ["once"]),
            helper.make_node("ReduceMax", ["input"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "limit"], ["on"]),
            helper.make_node("Loop", ["", "on", "once"], ["logits"], body=body),
        ],
        "hangs",
        [one("input", TensorProto.FLOAT, ["n", 4])],
        [one("logits", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(models.WEIGHTS, "w"),
            numpy_helper.from_array(models.BIAS, "b"),
            numpy_helper.from_array(np.array(100, np.float32), "limit"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def ask(address: str, value: float) -> dict:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [value, 0, 0, 0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    with urllib.request.urlopen(f"{address}/v2/models/tiny/infer", body, timeout=120) as answer:
        return json.load(answer)


def test_a_release_that_hangs_ends_the_agent_until_it_is_rolled_back_as_a_crash_loop(tmp_path: Path) -> None:
    directory = enrolled(tmp_path / "device")
    (directory / "agent.toml").write_text("watchdog_s = 3.0\nport = 0\n")
    good, bad = models.installed(directory), models.installed(directory, number=2, data=hanging_onnx())
    StateFile(directory).put_model(
        "tiny",
        ModelState(
            state="probation",
            active=bad,
            previous=good,
            target=UpdateTarget(held=bad),
            probation=Probation(seconds=3600, requests=1000, max_starts=1),
        ),
    )
    with running(directory) as (process, address):
        assert ask(address, 1.0)["model_version"] == "2"
        with pytest.raises(http.client.RemoteDisconnected):  # the connection ends with the process
            ask(address, HANGS)
        assert process.wait(120) == EXIT
    said = (directory / "log").read_text()
    assert "nothing has moved for 3 s" in said and "in _once" in said  # the trace names the runtime's call
    with running(directory) as (_, address):  # as the service manager would
        assert ask(address, HANGS)["model_version"] == "1"
    state = read_state(directory).models["tiny"]
    assert (state.state, state.reason, state.active) == ("rolled_back", "crash-loop", good)


async def watched(limit_s: float, runs: Runs, meanwhile) -> None:
    """A watchdog beside `meanwhile(ended)`, whose event is set when the process would end."""
    ended = threading.Event()
    task = asyncio.create_task(Watchdog(limit_s, runs, NOBODY, end=lambda _: ended.set()).run())
    await asyncio.sleep(0)
    await meanwhile(ended)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_loop_that_stands_still_is_noticed() -> None:
    async def blocks(ended: threading.Event) -> None:
        assert ended.wait(120)

    asyncio.run(watched(0.1, Runs(), blocks))


def test_runs_in_threads_that_never_end_are_noticed_while_the_loop_goes_on() -> None:
    async def hangs(ended: threading.Event) -> None:
        runs.begin()
        assert await asyncio.to_thread(ended.wait, 30)

    runs = Runs()
    asyncio.run(watched(0.1, runs, hangs))


def test_long_runs_that_end_now_and_then_are_no_standstill() -> None:
    runs = Runs()
    dog = Watchdog(60, runs, NOBODY)
    dog._beat()
    first = dog._beats
    runs.begin()
    dog._beat()
    assert dog._beats == first  # one is under way, and none has ended
    runs.begin()
    runs.end()
    dog._beat()
    assert dog._beats == first + 1
    dog._beat()
    assert dog._beats == first + 1
    runs.end()
    dog._beat()
    assert dog._beats == first + 2


def test_patience_counts_looks_without_a_move_in_a_row() -> None:
    patience = Patience(3)
    assert [patience.over(beats) for beats in (1, 1, 1, 2, 2, 2, 2, 2)] == [False] * 6 + [True, True]


def test_it_can_be_switched_off(monkeypatch) -> None:
    monkeypatch.setattr(watchdog.threading, "Thread", None)
    asyncio.run(Watchdog(0, Runs(), NOBODY).run())
