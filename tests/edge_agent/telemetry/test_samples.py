from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import AgentError, UnreachableError
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.samples import (
    Draft,
    SampleStore,
    is_outlying,
    make_sample,
    may_keep,
    reason_to_keep,
    without_inputs,
)
from edge_agent.telemetry.uploader import Uploader
from fleet.protocol import drift_encoder
from fleet.protocol.channel import Sampling
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.messages import SAMPLES_LIMIT, SampleBatch, SampleReceipt
from tests.support import models

SAMPLING = Sampling(enabled=True, random_ppm=100_000, uncertain_ppm=200_000)
NOTHING = {"uncertain": False, "disagreeing": False}


def sample(at=1.0):
    x = models.inputs(1)
    return make_sample(Draft("tiny", 1, "v", at, "random", {"input": x}, {"logits": models.answer(x)}, 0.5, 1, None))


@pytest.mark.parametrize(
    ("sampling", "draw", "flags", "reason"),
    [
        (SAMPLING, 0.05, NOTHING, "random"),
        (SAMPLING, 0.05, {**NOTHING, "uncertain": True}, "random"),
        (SAMPLING, 0.15, {**NOTHING, "uncertain": True}, "uncertain"),
        (SAMPLING, 0.15, {**NOTHING, "uncertain": True, "disagreeing": True}, "disagreeing"),
        (SAMPLING, 0.15, NOTHING, "outlying"),
        (SAMPLING, 0.35, {**NOTHING, "uncertain": True}, None),
        (Sampling(), 0.0, NOTHING, None),
    ],
)
def test_choose(sampling, draw, flags, reason):
    assert reason_to_keep(sampling, draw, **flags) == reason


def test_outlying_is_far_from_the_training_data():
    encoder = drift_encoder.fit_encoder(models.inputs(500), tensor="input", dims=4, features=64)
    assert not any(is_outlying({"input": row[None]}, encoder) for row in models.inputs(50, seed=3))
    assert is_outlying({"input": np.full((1, 4), 9, np.float32)}, encoder)
    assert not is_outlying({"input": np.full((1, 5), 9, np.float32)}, encoder)


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "spool.db")


def batch_of(store):
    ids, body = store.batch()
    return ids, decode_msgpack(body, SampleBatch, limit=SAMPLES_LIMIT).samples if ids else ()


def test_samples_survive_a_restart_and_go_oldest_first(database, tmp_path):
    first, second = sample(1.0), sample(2.0)
    SampleStore(database).put([second, first, first], max_bytes=1 << 20)
    database.close()
    ids, samples = batch_of(SampleStore(Database(tmp_path / "spool.db")))
    assert ids == [first.id, second.id]
    assert samples == (first, second)


def test_redaction_comes_before_the_disk(database):
    seen = []

    def redact(found):
        seen.append(found.id)
        return None if found.at == 1.0 else without_inputs(found)

    kept = sample(2.0)
    store = SampleStore(database, redact)
    assert store.put([sample(1.0), kept], max_bytes=1 << 20) == 1
    assert batch_of(store)[1] == (msgspec.structs.replace(kept, inputs=()),)
    assert len(seen) == 2


def test_a_full_store_gives_up_the_oldest(database):
    store = SampleStore(database)
    size = len(msgspec.msgpack.encode(sample()))
    samples = [sample(float(at)) for at in range(10)]
    store.put(samples, max_bytes=4 * size + size // 2)
    assert len(store) <= 4
    assert store.dropped == 10 - len(store)
    assert batch_of(store)[0] == [s.id for s in samples[-len(store) :]]


def test_retention(database):
    store = SampleStore(database)
    store.put([sample(1.0), sample(100.0)], max_bytes=1 << 20)
    store.expire(50.0)
    assert len(store) == 1


class FakeHub:
    """Takes samples like the hub: each id once, in memory."""

    def __init__(self):
        self.samples = {}
        self.calls = 0
        self.error = None
        self.forget = 0

    def request(self, method, path, body=None, headers=None, timeout=30.0):
        assert (method, path) == ("POST", "/device/samples")
        self.calls += 1
        if self.error is not None:
            raise self.error
        found = decode_msgpack(body, SampleBatch, limit=SAMPLES_LIMIT).samples
        taken = found[self.forget :]
        self.samples |= {s.id: s for s in taken}
        receipt = msgspec.json.encode(SampleReceipt(committed=(*(s.id for s in taken), "unknown")))
        return type("Answer", (), {"status": 200, "headers": {}, "data": receipt})()


@pytest.fixture
def line(database):
    store, hub = SampleStore(database), FakeHub()
    budget = Budget(database, lambda: 86_400.0)
    store.put([sample(float(at)) for at in range(6)], max_bytes=1 << 20)
    return store, hub, budget, Uploader(hub, store, budget)


def test_only_what_the_receipt_names_is_deleted(line):
    store, hub, budget, uploader = line
    hub.forget = 2
    assert uploader.upload()
    assert len(store) == 2
    hub.forget = 0
    assert uploader.upload()
    assert not uploader.upload()
    assert (len(store), len(hub.samples)) == (0, 6)
    assert budget.up > 0


def test_an_unreachable_hub_or_an_empty_receipt_deletes_nothing(line):
    store, hub, _, uploader = line
    hub.error = UnreachableError("away")
    with pytest.raises(UnreachableError):
        uploader.upload()
    hub.error, hub.forget = None, 99
    with pytest.raises(AgentError, match="took none"):
        uploader.upload()
    assert len(store) == 6


def test_a_spent_budget_stops_samples(line):
    store, hub, budget, uploader = line
    budget.limit = 100
    assert not uploader.upload()
    assert (hub.calls, len(store)) == (0, 6)


@given(
    st.integers(0, 1_000_000),
    st.integers(0, 1_000_000),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.booleans(),
)
def test_a_draw_that_may_keep_nothing_keeps_nothing(random, uncertain_share, enabled, draw, uncertain, disagreeing):
    sampling = Sampling(enabled=enabled, random_ppm=random, uncertain_ppm=uncertain_share)
    kept = reason_to_keep(sampling, draw, uncertain=uncertain, disagreeing=disagreeing)
    assert (kept is not None) == may_keep(sampling, draw)
