"""The time that a live rollout's verdict will take."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.rollouts.evidence import PairedEvidence
from fleet.rollouts.guard import GuardVerdict
from fleet.rollouts.machine import Plan, Progress, checked_plan
from fleet.rollouts.power import pairs_needed
from fleet.rollouts.remaining import remaining
from fleet.rollouts.stages import plan_stages


def plan(**policy: Any) -> Plan:
    return checked_plan(
        Plan(
            id="r-1",
            model="digits",
            channel="stable",
            release=2,
            from_release=1,
            salt="s",
            policy={"margin": 0.1, **policy},
            stages=plan_stages((10, 100)),
        )
    )


def progress(pairs: int, *, healthy: bool = False, **changes: Any) -> Progress:
    judgement: Any = "healthy" if healthy else "not-enough-evidence"
    verdict = GuardVerdict(judgement=judgement, reason="", paired=PairedEvidence(pairs=pairs, devices=3))
    return Progress(started_at=0.0, stage_times=(0.0,), **{"verdict": verdict, **changes})


def test_what_is_missing_comes_as_fast_as_what_has_come() -> None:
    needed = pairs_needed(margin=0.1, alpha=0.05, devices=3)
    assert needed is not None and needed > 60
    found = remaining(plan(), progress(60), 7200.0)
    assert found is not None
    assert (found.needed, found.missing, found.per_hour) == (needed, needed - 60, 30.0)
    assert found.seconds == pytest.approx((needed - 60) * 120.0)


def test_a_stage_needs_pairs_of_its_own() -> None:
    found = remaining(plan(min_pairs=40), progress(5000, pairs_before=4990), 3600.0)
    assert found is not None and found.missing == 30


def test_nothing_is_missing_of_a_healthy_one_and_nothing_tells_without_any_pair() -> None:
    done = remaining(plan(), progress(900, healthy=True), 3600.0)
    assert done is not None and (done.missing, done.seconds) == (0, 0.0)
    still = remaining(plan(), progress(0), 3600.0)
    assert still is not None and still.missing and still.seconds is None
    never = remaining(plan(margin=0.0005), progress(60), 3600.0)
    assert never is not None and (never.needed, never.seconds) == (None, None)


def test_it_is_said_only_where_a_verdict_waits_for_pairs() -> None:
    assert remaining(plan(evidence="install"), progress(60), 3600.0) is None
    assert remaining(plan(), progress(60, state="halted"), 3600.0) is None
    assert remaining(plan(), progress(60, verdict=None), 3600.0) is None
