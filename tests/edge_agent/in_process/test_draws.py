"""Requests in process are seen themselves, not only counted: drawn fairly, within bounds, and never in the way."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import random
import socket
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.in_process.draws import (
    BYTES,
    EVERY_S,
    LIMIT,
    MOST,
    SOCKET,
    STALE_S,
    DrawnBatch,
    DrawnRequest,
    Draws,
)
from edge_agent.in_process.records import Outbox
from edge_agent.local import open_model
from edge_agent.telemetry.local_draws import DrawnRequests, LocalDraws
from edge_agent.telemetry.local_records import LocalRecords
from edge_agent.telemetry.windows import Builder, Key
from edge_agent.update.disk.state import Looked, StateFile
from fleet.protocol.channel import Audit, Channel, ModelEntry, Routing, Sampling
from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.drift_encoder import fit_encoder
from fleet.protocol.messages import SampleBatch
from fleet.protocol.telemetry import Window
from fleet.protocol.tensors import from_array, to_array
from tests.edge_agent.test_local import X, install
from tests.support import models
from tests.support.agent import Agent


class Reader:
    """The agent's socket, without the agent: batches are read when the test says so."""

    def __init__(self, directory):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listener.bind(str(directory / SOCKET))
        self.listener.settimeout(20)

    def descriptor(self):
        _, (descriptor,), _, _ = socket.recv_fds(self.listener, 1, 1)
        return descriptor

    def read(self):
        descriptor = self.descriptor()
        batch = msgspec.msgpack.decode(os.pread(descriptor, 1 << 24, 0), type=DrawnBatch)
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
        return batch, [msgspec.msgpack.decode(part, type=DrawnRequest) for part in batch.drawn]


@pytest.fixture
def reader(tmp_path):
    made = Reader(tmp_path)
    yield made
    made.listener.close()


@pytest.fixture
def quiet(monkeypatch):
    """No thread: the test flushes."""
    monkeypatch.setattr(Outbox, "_rouse", lambda self: None)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def draws(directory, seed=0):
    clock = Clock()
    return Draws(directory, rng=random.Random(seed).random, now=clock), clock


def numbered(box, release, count, rows=1, first=0):
    """Offer requests whose every row holds its number."""
    for number in range(first, first + count * rows, rows):
        x = np.arange(number, number + rows, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
        box.offer(release, {"input": x}, {"logits": x[:, :3].copy()})
        x[...] = -1  # the caller's own, to do with as it likes


def number_of(drawn):
    ((value, *_),) = from_array(drawn.inputs[0])
    assert from_array(drawn.outputs[0])[0, 0] == value
    return int(value)


# ---- drawing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seen", "rows"), [(5, 1), (200, 1), (40, 5)])
def test_every_row_is_drawn_as_often_as_any_other(tmp_path, reader, seen, rows):
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    counts, rounds = Counter(), 200
    for _ in range(rounds):
        numbered(box, release, seen, rows)
        clock.now += EVERY_S
        box.flush()
        batch, found = reader.read()
        assert (batch.lost, batch.too_large, len(found)) == (0, 0, min(seen, MOST))
        assert {(one.requests, one.rows) for one in found} == {(max(seen / MOST, 1.0), rows)}
        counts.update(map(number_of, found))
    expected = rounds * min(seen, MOST) / (seen * rows)
    # Chi-squared of that many places; its mean is their number, its deviation the root of twice that.
    chi = sum((counts[place] - expected) ** 2 / expected for place in range(seen * rows))
    assert sum(counts.values()) == rounds * min(seen, MOST)
    assert chi < seen * rows + 5 * (2 * seen * rows) ** 0.5


def test_only_what_is_drawn_is_copied(tmp_path, quiet, monkeypatch):
    release = models.release(tmp_path / "blobs")
    box, _ = draws(tmp_path)
    taken = []
    take = box._interval.take
    monkeypatch.setattr("edge_agent.in_process.draws.Interval.take", lambda *given: taken.append(1) or take(*given[1:]))
    numbered(box, release, 100_000)
    assert MOST < len(taken) < MOST * 15  # MOST × (1 + ln(100,000 / MOST)) is 290


def test_an_interval_is_told_when_it_is_over_and_at_the_end(tmp_path, reader):
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    numbered(box, release, 1)
    box.flush()
    assert len(reader.read()[1]) == 1  # the first one at once
    numbered(box, release, 2)
    clock.now += EVERY_S * 0.9
    box.flush()
    numbered(box, release, 2, first=2)
    clock.now += EVERY_S * 0.2
    box.flush()
    assert sorted(map(number_of, reader.read()[1])) == [0, 1, 2, 3]
    numbered(box, release, 3)
    box.close()
    assert len(reader.read()[1]) == 3


# ---- bounds -----------------------------------------------------------------------------------------------


def test_large_inputs_are_fewer_and_a_batch_keeps_its_bytes(tmp_path, reader):
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    x = np.zeros((1, 150_000), np.float32)  # an image: six of them are 3.6 MB
    for _ in range(50):
        box.offer(release, {"input": x}, {"logits": x[:, :3]})
    clock.now += EVERY_S
    box.flush()
    batch, found = reader.read()
    assert (len(found), batch.too_large, found[0].requests) == (1, 0, 50.0)


def test_what_is_over_the_bound_is_not_copied_and_counted(tmp_path, reader):
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    huge = np.broadcast_to(np.zeros(1, np.float32), (1, 1 << 40))  # a copy would end the process
    numbered(box, release, 3)
    for _ in range(5):
        box.offer(release, {"input": huge}, {"logits": X[:, :3]})
    clock.now += EVERY_S
    box.flush()
    batch, found = reader.read()
    assert (batch.too_large, sorted(map(number_of, found))) == (5, [0, 1, 2])


def test_texts_count_with_their_bytes(tmp_path, reader):
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    for size in (10, BYTES + 1, BYTES // 2):
        box.offer(release, {"input": np.array([[b"x" * size]], object)}, {"logits": X[:, :3]})
    clock.now += EVERY_S
    box.flush()
    batch, found = reader.read()
    assert (batch.too_large, [from_array(one.inputs[0]).size for one in found]) == (1, [1, 1])


def test_a_busy_agent_costs_one_file_and_what_is_lost_is_counted(tmp_path, reader):
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    for _ in range(4):  # the first is sent, three find it unread
        numbered(box, release, 10)
        clock.now += EVERY_S
        box.flush()
    assert box.lost == 30
    _, found = reader.read()
    assert len(found) == 10
    numbered(box, release, 10)
    clock.now += EVERY_S
    box.flush()
    batch, found = reader.read()
    assert (batch.lost, len(found), box.lost) == (30, 10, 0)


def test_a_restarted_agent_is_told_again(tmp_path, reader):
    """The old one took a file with it that nobody will ever read."""
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    numbered(box, release, 4)
    box.flush()
    unread = reader.descriptor()
    clock.now += STALE_S
    numbered(box, release, 2)
    box.flush()
    batch, found = reader.read()
    assert (batch.lost, len(found)) == (4, 2)
    assert os.fstat(unread).st_size == 0  # the same file: nothing has gathered
    os.close(unread)


def test_without_an_agent_nothing_waits_and_nothing_is_counted(tmp_path):
    release = models.release(tmp_path / "blobs")
    box, clock = draws(tmp_path)
    for _ in range(3):
        numbered(box, release, 10)
        clock.now += EVERY_S
        box.flush()
        assert (box._interval.kept, box.lost, os.fstat(box._file.number).st_size) == ([], 0, 0)


def test_a_forked_child_tells_of_its_own_draws_only(tmp_path, reader):
    release = models.release(tmp_path / "blobs")
    box, _ = draws(tmp_path)
    numbered(box, release, 3)
    child = os.fork()
    if not child:
        status = 1
        try:
            box.after_fork()
            numbered(box, release, 1, first=70)
            box.flush()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert list(map(number_of, reader.read()[1])) == [70]
    box.flush()
    assert sorted(map(number_of, reader.read()[1])) == [0, 1, 2]


# ---- what the agent makes of them -----------------------------------------------------------------------


def record(x, requests=1.0, rows=1, **more):
    outputs = {"logits": models.answer(x)}
    return DrawnRequest(
        **{
            "model": "tiny",
            "release": 1,
            "variant": "onnx-fp32",
            "requests": requests,
            "rows": rows,
            "inputs": (to_array("input", x),),
            "outputs": tuple(to_array(*item) for item in outputs.items()),
            **more,
        }
    )


def at_agent(tmp_path, entry, scenario):
    """Run `scenario(agent, take)`; the windows and samples that came of it."""

    async def run():
        agent = Agent(tmp_path)
        agent.follow(entry)
        await agent.slots.activate(models.release(agent.blobs), None, None)
        drawn = DrawnRequests(agent.slots, agent.policies, agent.recorder, random.Random(1).random)
        async with agent.auditing():
            await scenario(agent, drawn.take)
        await agent.writer.flush()
        spooled = agent.spool.after(0, 100)
        windows = [decode_msgpack(r.body, Window, limit=1 << 20) for r in spooled if r.kind == "window"]
        _, batch = agent.samples.batch(1 << 24)
        samples = decode_msgpack(batch, SampleBatch, limit=1 << 24).samples if batch else ()
        return agent, windows, samples

    return asyncio.run(run())


def test_an_application_in_another_thread_is_sketched_sampled_and_audited(tmp_path, quiet):
    """The whole way: records and drawn requests of 40 requests, through both sockets."""
    install(tmp_path, 1)
    entry = ModelEntry(
        release=1, sampling=Sampling(enabled=True, random_ppm=1_000_000), audit=Audit(auditor=7, share_ppm=1_000_000)
    )
    StateFile(tmp_path).keep_looked(Looked(channel=Channel(channel="stable", version=1, models={"tiny": entry})))

    async def scenario(agent, take):
        counted, seen = asyncio.Event(), LocalDraws(tmp_path, take, agent.metrics)
        records = LocalRecords(tmp_path, lambda found: (agent.recorder.local(found), counted.set()))
        tasks = [asyncio.create_task(one.run()) for one in (records, seen)]
        await asyncio.sleep(0)

        def ask():
            with open_model(tmp_path, "tiny") as model:
                for x in models.inputs(20):
                    model.infer({"input": x[None]})

        await asyncio.to_thread(ask)
        async with asyncio.timeout(20):
            await counted.wait()
            while seen.counts["taken"] + seen.counts["lost"] < 20:
                await asyncio.sleep(0)
        assert (seen.counts["refused"], seen.counts["too-large"]) == (0, 0)
        assert f'edge_local_draws{{outcome="taken"}} {seen.counts["taken"]}' in agent.metrics.render().decode()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    agent, windows, samples = at_agent(tmp_path, entry, scenario)
    (window,) = windows
    taken = window.sketch.count
    assert (window.counters["requests"], window.counters["local"]) == (20, 20)
    assert taken and window.counters["audited"] == window.counters["audit_agree"] == taken == len(samples)
    assert set(agent.cloud.asked) == {("tiny", 7)}
    assert {from_array(sample.inputs[0]).tobytes() for sample in samples} <= {x.tobytes() for x in models.inputs(20)}


def test_the_channels_shares_are_kept(tmp_path):
    """1 % of the requests, though one in ten was drawn: one in ten of these."""
    entry = ModelEntry(
        release=1,
        sampling=Sampling(enabled=True, random_ppm=10_000, uncertain_ppm=0),
        audit=Audit(auditor=7, share_ppm=10_000),
    )

    async def scenario(agent, take):
        agent.auditor.offer, jobs = (lambda job: jobs.append(job)), []
        for x in models.inputs(3000):
            assert take(record(x[None], requests=10.0))
        for x in models.inputs(300):
            assert take(record(x[None], requests=1.0, rows=100))  # a row of a batch stands for the batch's rows
        assert 250 < len(jobs) - 300 < 350

    _, _, samples = at_agent(tmp_path, entry, scenario)
    assert 250 < len(samples) < 350
    assert {sample.reason for sample in samples} == {"random"}


def test_an_uncertain_request_becomes_a_sample(tmp_path):
    entry = ModelEntry(release=1, sampling=Sampling(enabled=True, random_ppm=0, uncertain_ppm=1_000_000))
    entry = replace(entry, routing=Routing(threshold=0.9))

    async def scenario(_agent, take):
        assert take(record(X))
        assert take(record(np.zeros((1, 4), np.float32)))

    _, _, samples = at_agent(tmp_path, entry, scenario)
    assert ("uncertain", (0.0,) * 4) in [(s.reason, tuple(from_array(s.inputs[0])[0])) for s in samples]


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": (to_array("input", np.zeros((1, 5), np.float32)),)},
        {"inputs": (to_array("x", X),)},
        {"inputs": ()},
        {"inputs": (to_array("input", np.full((1, 4), np.nan, np.float32)),)},
        {"outputs": ()},
        {"outputs": (to_array("logits", np.zeros((1, 3), np.int32)),)},
        {"outputs": (to_array("logits", np.full((1, 3), np.inf, np.float32)),)},
        {"requests": 0.0},
        {"requests": float("nan")},
        {"rows": 0},
        {"rows": "many"},
        {"release": 2},
        {"variant": "litert"},
        {"model": "other"},
    ],
)
def test_one_bad_request_does_not_take_its_batch_along(tmp_path, wrong):
    async def scenario(agent, take):
        found = LocalDraws(tmp_path, take, agent.metrics)
        good = record(X)
        bad = {**msgspec.to_builtins(good), **wrong}
        found._batch(encode_msgpack({"drawn": [good, bad, good]}))
        assert found.counts == {"taken": 2, "refused": 1, "lost": 0, "too-large": 0}

    _, (), _ = at_agent(tmp_path, ModelEntry(release=1), scenario)  # the window holds no request, so it says nothing


def test_a_descriptor_that_is_no_batch_is_refused(tmp_path):
    """A pipe that nobody writes to would hold up the agent for ever; a huge file would take its memory."""

    async def scenario(agent, take):
        found = LocalDraws(tmp_path, take, agent.metrics)
        task = asyncio.create_task(found.run())
        await asyncio.sleep(0)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for descriptors in hostile(tmp_path):
            refused = found.counts["refused"]
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendmsg(
                    [b"d"],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))],
                    0,
                    str(tmp_path / SOCKET),
                )
            for descriptor in descriptors:
                os.close(descriptor)
            async with asyncio.timeout(20):
                while found.counts["refused"] == refused:
                    await asyncio.sleep(0)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"no descriptor", str(tmp_path / SOCKET))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    at_agent(tmp_path, ModelEntry(release=1), scenario)


def hostile(tmp_path):
    yield [os.open("/dev/null", os.O_RDWR)]
    reading, writing = os.pipe()
    os.close(writing)
    yield [reading]
    (tmp_path / "file").write_bytes(b"x")
    yield [os.open(tmp_path / "file", os.O_RDWR)]
    huge = os.memfd_create("huge")
    os.ftruncate(huge, 1 << 40)
    yield [huge]
    rubbish = os.memfd_create("rubbish")
    os.pwrite(rubbish, b"\xc1rubbish", 0)
    yield [rubbish]
    unwritable = os.memfd_create("read")
    os.pwrite(unwritable, b"x" * (LIMIT + 1), 0)
    yield [unwritable, *(os.open("/dev/null", os.O_RDONLY) for _ in range(5))]


# ---- the sketch stays a uniform draw ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [(1.0, 8.0), (8.0, 1.0)])
@pytest.mark.parametrize("own", [100, 2000])
def test_rows_of_different_weight_are_sketched_as_often_as_they_came(order, own):
    """`own` requests of the local API, and eight times as many in process of which one in eight was drawn."""
    encoder = fit_encoder(np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    rng, held, light = random.Random(3).random, 0, 0
    for _ in range(60):
        builder = Builder(Key("digits", 1, "v", None), 0.0, 3, encoder)
        for weight in order:
            builder.draw({"x": np.full((own, 6), weight, np.float32)}, rng, weight)
        held += len(builder._reservoir)
        light += sum(row["x"][0] == 1.0 for row in builder._reservoir)
    share = light / held
    assert abs(share - 1 / 9) < 5 * (1 / 9 * 8 / 9 / held) ** 0.5
    assert held / 60 >= min(256, own)


def test_a_sketch_of_equal_weights_is_what_it_was():
    encoder = fit_encoder(np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    rows = np.random.default_rng(1).normal(size=(1000, 6)).astype(np.float32)
    found = []
    for weight in (1.0, 3.0):
        builder = Builder(Key("digits", 1, "v", None), 0.0, 3, encoder)
        builder.draw({"x": rows}, random.Random(0).random, weight)
        found.append(builder.close(1.0).sketch)
    assert found[0] is not None and found[0].count == found[1].count == 256
