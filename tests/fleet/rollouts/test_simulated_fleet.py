"""Whole rollouts on simulated fleets: devices follow `resolve`, audited pairs come in every tick."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from fleet.protocol.channel import Channel, ModelEntry, RolloutRef
from fleet.protocol.resolve import resolve
from fleet.rollouts.cohorts import draw_salt
from fleet.rollouts.machine import (
    ENDED,
    DeviceFact,
    Plan,
    Progress,
    Publish,
    RolloutFacts,
    checked_plan,
    decide,
    start,
    wanted,
)
from fleet.rollouts.pairs import Pairs
from fleet.rollouts.stages import plan_stages
from tests.support.size import sized

TICK_S, PAIRS_PER_TICK = 10.0, 10
FLEETS = sized(40, 400)
Rates = tuple[float, float, float, float]  # both, only_old, only_new, neither
GOOD: Rates = (0.95, 0.01, 0.01, 0.03)
SWAPPED: Rates = (0.77, 0.19, 0.005, 0.035)


def run(devices: int, rates: Rates, seed: int, odd: Rates | None = None) -> tuple[Plan, Progress]:
    """Run a rollout to its end, at most 100 ticks; with `odd` the first device has rates of its own."""
    random, names = np.random.default_rng(seed), [f"device-{i}" for i in range(devices)]
    stages = plan_stages([34, 100]) if devices == 3 else plan_stages([20, 50, 100])
    salt = draw_salt(Random(seed), names, tuple(s.share_ppm for s in stages), used=set())
    plan = checked_plan(Plan(id="r", model="m", channel="c", release=2, from_release=1, stages=stages, salt=salt))
    progress, now = start(plan, 0.0).progress, 0.0
    totals = {name: np.zeros(4, np.int64) for name in names}
    while progress.state not in ENDED and now < 100 * TICK_S:
        now += TICK_S
        share = wanted(plan, progress)
        assert isinstance(share, Publish)
        ref = RolloutRef(id="r", attempt=1, release=2, from_release=1, share_ppm=share.share_ppm, salt=salt)
        channel = Channel(channel="c", version=1, models={"m": ModelEntry(release=1, rollout=ref)})
        targets = {name: resolve(channel, "m", name, committed=1) for name in names}
        cohort = [name for name, target in targets.items() if target is not None and target.release == 2]
        for name in cohort:
            mine = odd if odd is not None and name == names[0] else rates
            totals[name] += random.multinomial(PAIRS_PER_TICK, mine)
        seen = RolloutFacts(
            cohort=tuple(fact(name, now, totals[name]) for name in cohort),
            control=tuple(fact(name, now, totals[name]) for name in names if name not in cohort),
        )
        progress = decide(plan, progress, seen, now).progress
    return plan, progress


def fact(name: str, now: float, counts: np.ndarray) -> DeviceFact:
    both, old, new, neither = (int(c) for c in counts)
    pairs = Pairs(both=both, only_old=old, only_new=new, neither=neither)
    return DeviceFact(device_id=name, last_seen=now, committed=True, pairs=pairs)


@pytest.mark.parametrize("devices", [1, 3, 20])
def test_a_bad_release_never_leaves_its_first_stage(devices: int) -> None:
    ends = [run(devices, SWAPPED, seed)[1] for seed in range(FLEETS)]
    assert {end.state for end in ends} == {"halted"}
    assert {end.stage for end in ends} == {0}
    assert max(end.exposed for end in ends) <= max(1, round(0.2 * devices))


@pytest.mark.parametrize("devices", [1, 3, 20])
def test_a_good_release_reaches_everyone(devices: int) -> None:
    ends = [run(devices, GOOD, seed)[1] for seed in range(FLEETS)]
    finished = [end for end in ends if end.state == "finished"]
    assert len(finished) >= sized(37, 367)  # alpha is 5 %: of 400 fleets 380, less three standard errors
    assert {end.exposed for end in finished} == {devices}


def test_one_odd_device_does_not_stop_a_good_release() -> None:
    ends = [run(20, GOOD, seed, odd=SWAPPED)[1] for seed in range(FLEETS)]
    assert sum(end.state == "halted" for end in ends) <= FLEETS / 10
    assert sum(end.state == "finished" for end in ends) >= FLEETS * 9 / 10
