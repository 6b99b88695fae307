"""The cost of a request is known before it is paid."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.serving import run_times
from fleet.protocol import oip
from fleet.protocol.channel import ModelEntry
from fleet.protocol.errors import TooLargeError
from fleet.protocol.manifest import Tensor
from fleet.protocol.tensors import MAX_TEXTS, from_bytes
from fleet.runtimes.cost import BODY_LIMIT, JSON_LIMIT, JSON_VALUES, body_limit, check_json
from fleet.runtimes.models import MAX_BATCH
from tests.edge_agent.serving.test_app import PATH, raw
from tests.support import models
from tests.support.agent import Agent
from tests.support.server import serving

X = np.array([[9, 0, 0, 0]], np.float32)


@pytest.fixture
def agent(tmp_path):
    agent = Agent(tmp_path)
    agent.follow(ModelEntry(release=1))
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None))
    return agent


def ask(x, **more):
    return json.dumps({"inputs": [{"name": "input", "shape": list(x.shape), "datatype": "FP32", **more}]}).encode()


@pytest.mark.parametrize(
    ("specs", "limit"),
    [
        ([("FP32", (-1, 4))], JSON_LIMIT + MAX_BATCH * 16),
        ([("INT8", (1, 49, 10, 1)), ("FP64", ())], JSON_LIMIT + 490 + 8),
        ([("UINT8", (-1, 1080, 1920, 3))], BODY_LIMIT),
        ([("FP32", (1, -1))], BODY_LIMIT),
        ([("BYTES", (-1, 1))], BODY_LIMIT),
    ],
)
def test_a_body_may_be_as_large_as_the_models_inputs(tmp_path, specs, limit):
    manifest = models.release(tmp_path).manifest
    tensors = tuple(Tensor(name=f"x{i}", datatype=kind, shape=shape) for i, (kind, shape) in enumerate(specs))
    assert body_limit(replace(manifest, inputs=tensors)) == limit


@pytest.mark.parametrize(
    ("body", "length", "fits"),
    [
        (b"[" + b"0," * (JSON_VALUES - 3) + b"0]", None, True),
        (b"[" + b"0," * JSON_VALUES + b"0]", None, False),
        (b"[" * (JSON_VALUES // 2) + b" " * JSON_VALUES, None, False),
        (b"[{" * (JSON_VALUES // 4) + b" " * JSON_VALUES, None, False),
        (b"1" * JSON_LIMIT, None, True),
        (b"1" * (JSON_LIMIT + 1), None, False),
        (b"{}" + b"," * (JSON_LIMIT + 1), 2, True),
        (b"," * (JSON_LIMIT + 1), 0, True),
        (b"," * (JSON_VALUES + 1), 10**9, False),
    ],
)
def test_json_is_counted_before_it_is_read(body, length, fits):
    if fits:
        check_json(body, length)
    else:
        with pytest.raises(TooLargeError) as caught:
            check_json(body, length)
        assert "binary extension" in caught.value.hint


def test_too_much_json_is_413_that_names_the_binary_extension(agent):
    many = np.zeros((30_000, 4), np.float32)
    limit = body_limit(agent.slots.slot("tiny").active.release.manifest)
    with serving(**agent.listener) as (address, _):
        for body, headers, words in (
            (ask(many, data=[0] * 120_000), {}, "binary extension"),
            (b" " * (JSON_LIMIT + 1), {}, "binary extension"),
            (zlib.compress(b" " * (JSON_LIMIT + 1)), {"Content-Encoding": "deflate"}, "binary extension"),
            (zlib.compress(b" " * (limit + 1)), {"Content-Encoding": "deflate"}, "inflates"),
            (zlib.compress(b" " * (limit + 1)), {"Content-Encoding": "deflate"}, "binary extension"),
            (b"", {"Content-Length": str(limit + 1)}, "binary extension"),
            (b"", {"Content-Length": str(limit + 1), oip.HEADER: "100"}, "for this model"),
        ):
            status, said = raw(address, "POST", PATH, body, **headers)
            assert (status, words in json.loads(said)["error"]) == (413, True), said
        head = ask(many[:26_000], parameters={"binary_data_size": 26_000 * 16})
        status, said = raw(
            address, "POST", PATH, head + many[:26_000].tobytes(), **{oip.HEADER: str(len(head))}
        )  # its answer has 78,000 values
        assert (status, len(json.loads(said)["outputs"][0]["data"])) == (200, 78_000)


def test_an_answer_of_too_many_values_is_not_written_as_json(agent):
    x = np.zeros((34_000, 4), np.float32)
    head = ask(x, parameters={"binary_data_size": x.nbytes})
    with serving(**agent.listener) as (address, _):
        status, said = raw(address, "POST", PATH, head + x.tobytes(), **{oip.HEADER: str(len(head))})
    assert status == 413 and "102000 values" in json.loads(said)["error"]


def test_texts_are_counted_before_they_are_made():
    with pytest.raises(TooLargeError, match="BYTES elements"):
        from_bytes(bytes(4 * (MAX_TEXTS + 1)), "BYTES", (MAX_TEXTS + 1,), "x")


def runs_take(monkeypatch, served, *took: tuple[float, float, int]) -> None:
    """Forget what runs took; the next ones take so long by the clock, of the processor, and read so many pages."""
    served.costs = run_times.RunTimes()
    clock = [time for by_clock, _, _ in took for time in (0.0, by_clock)]
    usage = iter(
        SimpleNamespace(ru_utime=time, ru_stime=0.0, ru_majflt=faults)
        for _, own, pages in took
        for time, faults in ((0.0, 0), (own, pages))
    )
    monkeypatch.setattr(run_times.time, "perf_counter", iter(clock).__next__)
    monkeypatch.setattr(run_times.resource, "getrusage", lambda who: next(usage))


@pytest.mark.parametrize(("rows", "slow"), [(1, False), (200, False), (500, True)])
def test_a_run_leaves_the_event_loop_by_its_own_number_of_values(agent, monkeypatch, rows, slow):
    served = agent.slots.slot("tiny").active
    runs_take(monkeypatch, served, *[(0.0001, 0.0001, 0)] * 20)
    for _ in range(20):
        served.run({"input": X})
    assert served.slow({"input": np.zeros((rows, 4), np.float32)}) is slow


@pytest.mark.parametrize(("own", "pages", "slow"), [(0.001, 0, False), (0.05, 0, True), (0.001, 3, True)])
def test_a_busy_device_does_not_take_a_fast_model_for_slow(agent, monkeypatch, own, pages, slow):
    """Every run takes 0.1 s by the clock, since others take the processor, and `own` seconds of it are the run's. What
    waits for its own pages of the disk is slow."""
    served = agent.slots.slot("tiny").active
    runs_take(monkeypatch, served, *[(0.1, own, pages)] * 25)
    judged = []
    for _ in range(25):
        served.run({"input": X})
        judged.append(served.slow({"input": X}))
    assert judged == [True] + [slow] * 24, "the clock alone tells of the first one, and makes the next ones asked"
    assert served.cost_s({"input": X}) == pytest.approx(0.1), "whoever waits for a run waits by the clock"


def test_a_quick_run_is_not_asked_for_its_own_time(agent, monkeypatch):
    served = agent.slots.slot("tiny").active
    runs_take(monkeypatch, served, *[(0.001, 0.0, 0)] * 20)
    monkeypatch.setattr(run_times.resource, "getrusage", lambda _who: pytest.fail("it costs more than it tells"))
    for _ in range(20):
        served.run({"input": X})
    assert not served.slow({"input": X})


def test_what_a_run_costs_is_known_before_the_first_request(agent):
    assert agent.slots.slot("tiny").active.cost_s({"input": X}) > 0


def test_inflating_leaves_the_event_loop(agent, monkeypatch):
    seen = []
    monkeypatch.setattr(oip, "decompress", lambda body, *_, limit: seen.append(threading.current_thread()) or body)
    with serving(**agent.listener) as (address, loop):
        done = threading.Event()
        loop.call_soon_threadsafe(lambda: (seen.append(threading.current_thread()), done.set()))
        assert done.wait(60)
        assert raw(address, "POST", PATH, ask(X, data=[9, 0, 0, 0]), Content_Encoding="gzip")[0] == 200
    assert seen[0] is not seen[1]
