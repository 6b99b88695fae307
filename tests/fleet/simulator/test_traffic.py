"""Simulated windows say what their profile makes happen, and the protocol takes them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from fleet.protocol.channel import RolloutRef
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import TELEMETRY_LIMIT
from fleet.protocol.pairing import KEY_BYTES
from fleet.protocol.sketch import check_sketch, distance
from fleet.protocol.telemetry import Window
from fleet.simulator.profiles import DeviceProfile
from fleet.simulator.traffic import Running, window

ROLLOUT = RolloutRef(id="r1", attempt=1, release=2, from_release=1, share_ppm=10**6, salt="s")
RUNNING = Running(
    model="m", release=2, variant="v", auditor=3, audit_share=1.0, classes=10, sketch_id="ab" * 32, features=128
)


def made(
    profile: DeviceProfile, *, rollout: bool = False, seconds: float = 2000.0, elapsed: float = 0.0, seed: int = 0
) -> Window:
    running = msgspec.structs.replace(RUNNING, rollout=ROLLOUT if rollout else None)
    found = window(running, profile, np.random.default_rng(seed), started=1e9, ended=1e9 + seconds, elapsed_s=elapsed)
    assert found is not None
    return found


def test_nobody_asked_nothing_to_tell() -> None:
    silent = DeviceProfile(requests_per_s=0.0)
    assert window(RUNNING, silent, np.random.default_rng(0), started=0.0, ended=60.0, elapsed_s=0.0) is None


def test_counts_agree_with_one_another() -> None:
    found = made(DeviceProfile(failing=0.2), rollout=True)
    counters = found.counters
    assert counters["requests"] == counters["edge"] + counters["failed"]
    assert counters["failed"] / counters["requests"] == pytest.approx(0.2, abs=0.04)
    assert counters["audited"] <= counters["edge"] and sum(found.confidence) == counters["requests"]
    pairs = found.pairs
    assert pairs is not None
    distinct = pairs.both + pairs.only_old + pairs.only_new + pairs.neither
    assert len(pairs.keys) == distinct * KEY_BYTES and distinct + pairs.repeats == counters["audited"]


def test_the_old_release_never_fails_as_the_new_one_does() -> None:
    assert "failed" not in made(DeviceProfile(failing=0.2, slower=4.0)).counters
    slow, fast = (made(DeviceProfile(slower=4.0), rollout=new).counters["latency_us_sum"] for new in (True, False))
    assert slow / fast == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_loss_is_what_the_pairs_show(loss: float) -> None:
    pairs = [made(DeviceProfile(loss=loss, requests_per_s=0.25), rollout=True, seed=seed).pairs for seed in range(20)]
    only_old = sum(pair.only_old for pair in pairs if pair)
    only_new = sum(pair.only_new for pair in pairs if pair)
    total = sum(pair.both + pair.only_old + pair.only_new + pair.neither for pair in pairs if pair)
    assert (only_old - only_new) / total == pytest.approx(loss, abs=0.02)


def test_one_input_has_one_outcome_on_every_device() -> None:
    outcomes: dict[bytes, int] = {}
    for seed in range(3):
        pairs = made(DeviceProfile(), rollout=True, seed=seed, seconds=400).pairs
        assert pairs is not None
        numbers = [0] * pairs.both + [1] * pairs.only_old + [2] * pairs.only_new + [3] * pairs.neither
        for place, outcome in enumerate(numbers):
            key = pairs.keys[place * KEY_BYTES : (place + 1) * KEY_BYTES]
            assert outcomes.setdefault(key, outcome) == outcome


def test_what_a_shadow_compares_adds_up_and_is_keyed_apart_from_audits() -> None:
    running = msgspec.structs.replace(RUNNING, release=1, shadowed=ROLLOUT)
    profile = DeviceProfile(loss=0.1, slower=3.0)
    found = window(running, profile, np.random.default_rng(0), started=1e9, ended=1e9 + 2000.0, elapsed_s=0.0)
    assert found is not None and found.shadow is not None
    said = found.shadow
    assert len(said.keys) == (said.agree + said.differ) * KEY_BYTES
    assert said.agree + said.differ + said.repeats + said.dropped == found.counters["requests"] and said.dropped > 0
    assert said.differ / (said.agree + said.differ) == pytest.approx(0.14, abs=0.05)
    assert said.new_us == pytest.approx(3 * said.old_us, rel=0.01)
    pairs = made(profile, rollout=True).pairs
    cut = lambda keys: {keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)}  # noqa: E731
    assert pairs is not None and not cut(pairs.keys) & cut(said.keys)
    serving_it = msgspec.structs.replace(running, release=2)
    other = window(serving_it, profile, np.random.default_rng(0), started=1e9, ended=1e9 + 60.0, elapsed_s=0.0)
    assert other is not None and other.shadow is None


def test_sketches_stand_still_until_the_shift() -> None:
    profile = DeviceProfile(shift=0.1, shift_after_s=60.0)
    before, again, after = (
        made(profile, elapsed=elapsed, seed=seed).sketch for elapsed, seed in ((0.0, 0), (59.0, 1), (60.0, 2))
    )
    assert before is not None and again is not None and after is not None
    for sketch in (before, again, after):
        check_sketch(sketch)
    assert abs(distance(before, again)) < distance(before, after) / 3


def test_a_window_fits_into_a_message() -> None:
    busy = made(DeviceProfile(requests_per_s=5000.0), rollout=True, seconds=60.0)
    assert len(encode_msgpack(busy)) < TELEMETRY_LIMIT
