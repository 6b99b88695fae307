"""Drawing salts whose cohorts fit the plan."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol.resolve import in_cohort
from fleet.rollouts.cohorts import counts, draw_salt, stage_of
from fleet.rollouts.errors import PlanError
from fleet.rollouts.stages import plan_stages
from tests.support.size import examples


def ids(n: int) -> list[str]:
    return [f"device-{i}" for i in range(n)]


@pytest.mark.parametrize("seed", range(20))
def test_three_devices_at_34_percent_make_a_first_stage_of_exactly_one(seed: int) -> None:
    salt = draw_salt(Random(seed), ids(3), (340_000, 1_000_000), used=set())
    assert counts(salt, ids(3), (340_000, 1_000_000)) == (1, 3)


@pytest.mark.parametrize("devices", [2, 3, 5, 10, 100])
def test_every_stage_holds_a_device_and_every_stage_but_the_last_leaves_one_out(devices: int) -> None:
    shares = (100_000, 500_000, 1_000_000)
    salt = draw_salt(Random(1), ids(devices), shares, used=set())
    found = counts(salt, ids(devices), shares)
    assert 1 <= found[0] <= found[1] < devices == found[2]


def test_counts_come_near_the_plan() -> None:
    shares = (100_000, 500_000, 1_000_000)
    found = counts(draw_salt(Random(2), ids(40), shares, used=set()), ids(40), shares)
    assert abs(found[0] - 4) + abs(found[1] - 20) <= 1


def test_the_first_stage_holds_as_many_as_have_to_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.rollouts.cohorts.MAX_HASHES", 1)  # as with many devices: any salt that is allowed
    shares = (30_000, 500_000, 1_000_000)
    drawn = [draw_salt(Random(seed), ids(100), shares, used=set(), at_least=3) for seed in range(10)]
    assert min(counts(salt, ids(100), shares)[0] for salt in drawn) >= 3
    with pytest.raises(PlanError, match="holds 19 of them"):
        draw_salt(Random(1), ids(20), shares, used=set(), at_least=19)


def test_a_used_salt_is_never_drawn_again() -> None:
    first = draw_salt(Random(3), ids(1), (1_000_000,), used=set())
    assert draw_salt(Random(3), ids(1), (1_000_000,), used={first}) != first


def test_one_device_belongs_to_every_stage_and_no_device_needs_any_salt() -> None:
    shares = (100_000, 1_000_000)
    assert counts(draw_salt(Random(4), ids(1), shares, used=set()), ids(1), shares) == (1, 1)
    assert len(draw_salt(Random(4), [], shares, used=set())) == 32


def test_a_share_too_small_for_the_fleet_is_refused_with_a_hint() -> None:
    with pytest.raises(PlanError, match=r"no cohort of 0\.0001 %") as caught:
        draw_salt(Random(5), ids(3), (1, 1_000_000), used=set())
    assert "raise" in caught.value.hint


@given(st.integers(0, 2**32), st.integers(1, 30))
@settings(max_examples=examples(30), deadline=None)
def test_stage_of_agrees_with_what_devices_compute(seed: int, devices: int) -> None:
    shares = (250_000, 600_000, 1_000_000)
    salt = draw_salt(Random(seed), ids(devices), shares, used=set())
    for device in ids(devices):
        stage = stage_of(salt, device, shares)
        assert stage is not None
        assert [in_cohort(salt, device, s) for s in shares] == [number >= stage for number in range(3)]


def test_stages_come_from_percentages() -> None:
    assert [s.share_ppm for s in plan_stages([0.5, 10, 100], soak_s=3)] == [5_000, 100_000, 1_000_000]


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [10],
        [10, 10, 100],
        [50, 10, 100],
        [0, 100],
        [10, 110],
        [-1, 100],
        [1e308],
        [math.nan, 100],
        [math.inf],
        [5e-324, 100],
    ],
)
def test_stages_that_do_not_rise_to_100_are_refused(bad: list[float]) -> None:
    with pytest.raises(PlanError, match="make no plan"):
        plan_stages(bad)


@pytest.mark.parametrize("soak_s", [-1, math.nan, math.inf, 1e308])
def test_a_soak_ends(soak_s: float) -> None:
    with pytest.raises(PlanError, match="cannot soak"):
        plan_stages([100], soak_s=soak_s)
