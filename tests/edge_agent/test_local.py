from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from edge_agent.errors import NotFoundError
from edge_agent.in_process.records import LocalRecord
from edge_agent.local import open_model
from edge_agent.telemetry.local_records import LocalRecords
from edge_agent.update.disk.state import StateFile
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from fleet.protocol.channel import ModelEntry
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import MalformedError, RefusalError
from fleet.protocol.manifest import encode_manifest
from fleet.protocol.telemetry import Window
from tests.support import models
from tests.support.agent import Agent

X = np.array([[9, 0, 0, 0]], np.float32)


def install(directory, number, **more):
    """Put a release into the store and make it the active one."""
    release = models.release(directory / "blobs", number=number, **more)
    digest = Store(directory).put_manifest(encode_manifest(release.manifest))
    held = HeldRelease(release=number, variant=release.variant.name, manifest=digest)
    StateFile(directory).put_model("tiny", ModelState(state="committed", active=held))
    return release


def test_answers_and_follows_swaps(tmp_path):
    install(tmp_path, 1)
    model = open_model(tmp_path, "tiny")
    first = model.infer({"input": X})
    np.testing.assert_allclose(first.outputs["logits"], models.answer(X))
    assert (first.release, first.classes) == (1, (0,))
    assert first.confidence[0] > 0.9
    install(tmp_path, 2, data=models.onnx_bytes(swap=True))
    assert model.release == 2
    assert model.infer({"input": X})[1:] == (2, first.confidence, (1,))
    model.close()


def test_a_release_that_does_not_load_leaves_the_old_one(tmp_path):
    install(tmp_path, 1)
    model = open_model(tmp_path, "tiny")
    release = install(tmp_path, 2, data=models.onnx_bytes(swap=True))
    (tmp_path / "blobs" / release.variant.blob.sha256).write_bytes(b"tampered")
    assert model.release == 1
    assert model.infer({"input": X}).release == 1
    model.close()


def test_nothing_installed_says_so(tmp_path):
    with pytest.raises(NotFoundError, match="cannot be opened"):
        open_model(tmp_path, "tiny")


def test_wrong_inputs_are_refused(tmp_path):
    install(tmp_path, 1)
    model = open_model(tmp_path, "tiny")
    with pytest.raises(MalformedError):
        model.infer({"input": np.zeros((1, 5), np.float32)})
    model.close()


def test_its_requests_count_in_the_agents_window(tmp_path):
    release = install(tmp_path, 1, data=models.onnx_bytes())

    async def scenario():
        agent = Agent(tmp_path)
        agent.follow(ModelEntry(release=1))
        await agent.slots.activate(release, None, None)
        seen = asyncio.Event()

        def record(found):
            agent.recorder.local(found)
            seen.set()

        task = asyncio.create_task(LocalRecords(tmp_path, record).run())
        await asyncio.sleep(0)
        model = open_model(tmp_path, "tiny")
        model.infer({"input": X})
        async with asyncio.timeout(10):
            await seen.wait()
        model.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await agent.writer.flush()
        return [decode_msgpack(r.body, Window, limit=1 << 20) for r in agent.spool.after(0, 10)]

    (window,) = asyncio.run(scenario())
    assert (window.counters["requests"], window.counters["local"], window.counters["edge"]) == (1, 1, 1)
    assert window.classes == (1, 0, 0)


def test_its_failures_count_for_the_probation_of_the_active_release_only(tmp_path):
    async def scenario():
        agent = Agent(tmp_path)
        agent.follow(ModelEntry(release=2))
        await agent.slots.activate(models.release(agent.blobs, number=2, data=b"fake"), None, None)
        for number, failed in ((2, False), (2, True), (1, True), (3, True)):
            agent.recorder.local(
                LocalRecord(model="tiny", release=number, variant="onnx-fp32", latency_s=0.001, failed=failed)
            )
        return agent.slots.health("tiny")

    health = asyncio.run(scenario())
    assert (health.requests, health.failures) == (2, 1)


@pytest.mark.parametrize(
    ("x", "raised", "told"),
    [
        (X, KeyError, True),
        (np.zeros((0, 4), np.float32), MalformedError, False),
        (np.zeros((1025, 4), np.float32), MalformedError, False),
    ],
)
def test_a_failed_run_is_told_unless_the_batch_is_to_blame(tmp_path, monkeypatch, x, raised, told):
    install(tmp_path, 1)
    model = open_model(tmp_path, "tiny")

    def run(_inputs):
        raise KeyError("logits")

    heard = []
    monkeypatch.setattr(model._current()[1], "run", run)
    monkeypatch.setattr(model._outbox, "put", lambda entry, soon=False: heard.append((entry.failed, soon)))
    with pytest.raises(raised):
        model.infer({"input": x})
    assert heard == [(told, True)]
    model.close()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"input": [[9, 0, 0, 0]]}, "input 'input' is a list, no array"),
        ({"input": "9"}, "input 'input' is a str, no array"),
        ([X], "inputs are a list, not arrays by name"),
        (X, "inputs are a ndarray, not arrays by name"),
    ],
)
def test_what_is_no_array_is_refused_in_words(tmp_path, inputs, says):
    install(tmp_path, 1)
    with pytest.raises(RefusalError, match=says):
        open_model(tmp_path, "tiny").infer(inputs)
