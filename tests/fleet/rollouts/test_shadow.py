"""The shadow stage: what is proof, what halts, and that nobody is served before it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleet.rollouts.bets import excess_gains, pooled
from fleet.rollouts.errors import PlanError, TransitionError
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.machine import ENDED, Clear, Plan, Publish, RolloutFacts, checked_plan, decide, start, wanted
from fleet.rollouts.orders import apply
from fleet.rollouts.pacing import waits
from fleet.rollouts.schedule import Rate, Schedule
from fleet.rollouts.shadow import (
    ShadowFacts,
    ShadowPlan,
    ShadowSeen,
    check_shadow_plan,
    judge_shadow,
    least_inputs,
)
from fleet.rollouts.stages import plan_stages
from tests.support.size import examples

POLICY = GuardPolicy(evidence_deadline_s=600)
SHADOW = ShadowPlan(seconds=100.0, inputs=100, devices=2, agreement=0.9)


def plan(shadow: ShadowPlan = SHADOW, schedule: Schedule | None = None, **policy: object) -> Plan:
    return checked_plan(
        Plan(
            id="r1",
            model="digits",
            channel="stable",
            release=2,
            from_release=1,
            stages=plan_stages([20, 100]),
            salt="s",
            policy={"evidence_deadline_s": 600, **policy},
            shadow=shadow,
            schedule=schedule,
        )
    )


NIGHT = 23 * 3600.0  # of the first of January 1970, UTC
NIGHTS = Schedule(window="22:00-04:00", start_at=6 * 3600.0, expires_at=40 * 86_400.0, rate=Rate(per_minute=1))


def seen(*each: tuple[int, int], **more: object) -> tuple[ShadowSeen, ...]:
    """Devices by how many of their inputs agree and differ."""
    return tuple(
        ShadowSeen(device_id=f"d{number}", agree=agree, differ=differ, **more)  # type: ignore[arg-type]
        for number, (agree, differ) in enumerate(each)
    )


def judged(found: tuple[ShadowSeen, ...], shadow: ShadowPlan = SHADOW, elapsed_s: float = 1e6):
    return judge_shadow(shadow, POLICY, ShadowFacts(seen=found), elapsed_s)


def test_enough_answers_that_are_the_same_on_enough_devices_are_proof() -> None:
    verdict = judged(seen((150, 2), (150, 1)))
    assert verdict.judgement == "healthy" and "3 of 303 answers on 2 devices differ" in verdict.reason
    assert verdict.goal == "at least 90 % of the answers are the same, at 95 %"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ((), "0 devices compared inputs, 2 must"),
        (seen((1000, 0)), "1 device compared inputs, 2 must"),
        (seen((30, 0), (30, 0)), "60 distinct inputs were compared, 100 must be"),
        (seen((90, 9), (90, 9)), "it is not shown yet"),
        (seen((150, 0), (150, 0), (150, 0)), "50 s of 100 s"),
    ],
)
def test_what_is_missing_is_said(found, says: str) -> None:
    verdict = judged(found, elapsed_s=50.0)
    assert verdict.judgement == "not-enough-evidence" and says in verdict.reason
    assert verdict.reason.startswith("not enough evidence: ")


def test_an_agent_that_compares_nothing_is_said_and_counts_for_nothing() -> None:
    verdict = judged((*seen((500, 0)), ShadowSeen(device_id="old", reason="no-variant")))
    assert verdict.judgement == "not-enough-evidence" and "no-variant on 1 device, such as old" in verdict.reason


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_too_many_answers_that_differ_halt(share: float) -> None:
    differ = int(150 * share)
    verdict = judged(seen((150 - differ, differ), (150 - differ, differ)))
    assert verdict.judgement == "harmful" and "answers differ, 10 % may" in verdict.reason


@pytest.mark.parametrize("more", [{"non_finite": 1}, {"reason": "crash-loop"}, {"reason": "selftest-failed"}])
def test_what_speaks_against_the_release_halts_on_two_devices_and_keeps_it_waiting_on_one(more) -> None:
    both = judged(seen((150, 0), (150, 0), **more))
    assert both.judgement == "harmful" and "2 devices speak against the release" in both.reason
    one = judged((*seen((150, 0), (150, 0)), ShadowSeen(device_id="odd", **more)))
    assert one.judgement == "not-enough-evidence" and "such as odd" in one.reason
    alone = judged(seen((300, 0), **more), ShadowPlan(devices=1))
    assert alone.judgement == "harmful"


def test_one_device_of_several_decides_nothing_whatever_it_forges() -> None:
    honest = seen((40, 0), (40, 0), (40, 0))
    for forged in (ShadowSeen(device_id="x", differ=2000), ShadowSeen(device_id="x", differ=2000, non_finite=2000)):
        assert judged((*honest, forged)).judgement == "not-enough-evidence"
    assert judged((ShadowSeen(device_id="x", agree=2000), *seen((1, 0)))).judgement == "not-enough-evidence"


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=6),
    st.sampled_from([0.05, 0.1, 0.3]),
)
def test_however_devices_contradict_each_other_the_judgement_is_that_of_their_sum_or_none(
    counts, margin: float
) -> None:
    verdict = judged(seen(*counts), ShadowPlan(agreement=1 - margin, devices=1, inputs=1))
    few = verdict.differ < margin * verdict.inputs
    assert verdict.judgement != "healthy" or few
    assert verdict.judgement != "harmful" or not few


def test_a_share_at_the_margin_is_called_too_many_by_chance_in_at_most_five_of_a_hundred() -> None:
    rng, margin, runs = np.random.default_rng(1), 0.1, 2000
    draws = rng.random((runs, 4, 200)) < margin  # devices, inputs; the test may look after every twentieth
    differ = draws.cumsum(axis=2)[:, :, 19::20]
    same = np.arange(20, 201, 20) - differ
    log_e = pooled(excess_gains(differ.swapaxes(1, 2), same.swapaxes(1, 2), margin), cap=0.8 * np.log(20))
    assert (log_e.max(axis=1) >= np.log(20)).mean() <= 0.05


def test_the_least_inputs_are_the_ones_that_suffice_when_all_agree() -> None:
    for shadow in (SHADOW, ShadowPlan(inputs=1, devices=3, agreement=0.99)):
        needed = least_inputs(shadow, 0.05)
        each = -(-needed // shadow.devices)
        assert judged(seen(*[(each, 0)] * shadow.devices), shadow).judgement == "healthy"
    fewer = seen(*[(needed // 3 - 2, 0)] * 3)
    assert judged(fewer, shadow).judgement == "not-enough-evidence"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"agreement": 1.0}, "below 1"),
        ({"agreement": 0.2}, "from 0.5"),
        ({"agreement": float("nan")}, "from 0.5"),
        ({"devices": 0}, "from 1"),
        ({"inputs": 1 << 70}, "to 1000000"),
        ({"seconds": -1.0}, "from 0"),
        ({"cpu_share": 0}, "one processor core"),
    ],
)
def test_a_plan_out_of_bounds_is_refused_with_its_bounds(wrong, hint: str) -> None:
    with pytest.raises(PlanError, match=next(iter(wrong))) as refused:
        check_shadow_plan(ShadowPlan(**wrong))
    assert hint in refused.value.hint


def test_it_comes_first_serves_nobody_and_its_times_do_not_count_for_the_stages() -> None:
    p = plan()
    begun = start(p, 0.0)
    assert begun.actions == (Publish(share_ppm=0, attempt=1, shadow=True),) and begun.progress.number == 0
    waits = decide(p, begun.progress, ShadowFacts(seen=seen((150, 0), (150, 0))), 50.0)
    assert waits.actions == () and waits.progress.shadow.judgement == "not-enough-evidence"
    passed = decide(p, waits.progress, ShadowFacts(seen=seen((150, 0), (150, 0))), 101.0)
    assert passed.actions == (Publish(share_ppm=200_000, attempt=1),) and passed.events[0].name == "advanced"
    assert (passed.progress.number, passed.progress.stage_times, passed.progress.deadline_from) == (1, (101.0,), 101.0)
    assert passed.progress.shadow.judgement == "healthy"  # stays to be read


def test_without_evidence_it_holds_and_goes_on_once_it_is_there() -> None:
    p = plan()
    progress = start(p, 0.0).progress
    assert decide(p, progress, ShadowFacts(), 699.0).progress.state == "running"
    held = decide(p, progress, ShadowFacts(), 700.0).progress
    assert held.state == "holding" and "no evidence within 700 s" in held.reason
    again = decide(p, held, ShadowFacts(seen=seen((150, 0), (150, 0))), 800.0).progress
    assert (again.state, again.number) == ("running", 1)
    halting = plan(on_no_evidence="halt")
    assert decide(halting, progress, ShadowFacts(), 700.0).progress.state == "halted"


def test_hours_in_which_no_device_could_be_heard_do_not_count_towards_the_deadline() -> None:
    p = plan(on_no_evidence="halt")
    progress = start(p, 0.0).progress
    away = decide(p, progress, ShadowFacts(deaf_until=7000.0), 7010.0).progress  # the broker was away for two hours
    assert (away.state, away.deadline_from) == ("running", 7000.0)
    assert decide(p, away, ShadowFacts(deaf_until=9000.0), 7020.0).progress.deadline_from == 7020.0
    assert decide(p, away, ShadowFacts(deaf_until=7000.0), 7699.0).progress.state == "running"
    assert decide(p, away, ShadowFacts(deaf_until=7000.0), 7700.0).progress.state == "halted"


def test_a_withdrawn_release_and_another_default_end_it() -> None:
    progress = start(plan(), 0.0).progress
    assert decide(plan(), progress, ShadowFacts(withdrawn="gone"), 1.0).actions == (Clear(),)
    assert decide(plan(), progress, ShadowFacts(superseded="changed"), 1.0).progress.state == "aborted"


def test_with_a_schedule_it_begins_at_the_start_compares_at_all_hours_and_the_first_stage_waits_for_the_window() -> (
    None
):
    p, proof = plan(schedule=NIGHTS), ShadowFacts(seen=seen((150, 0), (150, 0)))
    made = start(p, 0.0)
    assert (made.progress.state, made.events[0].name) == ("scheduled", "scheduled")
    assert made.actions == (Publish(share_ppm=0, attempt=1),) and "waits for its start" in waits(p, made.progress, 0.0)
    assert decide(p, made.progress, proof, 21_599.0).progress == made.progress, "nobody compares before"
    begun = decide(p, made.progress, proof, 21_600.0)
    assert begun.actions == (Publish(share_ppm=0, attempt=1, shadow=True),) and begun.events[0].name == "started"
    assert begun.progress.state == "running" and waits(p, begun.progress, 21_600.0) == ""
    passed = decide(p, begun.progress, proof, 21_701.0)
    assert passed.actions == (Publish(share_ppm=0, attempt=1),) and passed.progress.number == 1
    assert "waits for its window" in waits(p, passed.progress, 21_701.0)
    assert decide(p, passed.progress, RolloutFacts(), NIGHT - 3601.0).progress.ordered.share_ppm == 0
    assert (
        decide(p, passed.progress, RolloutFacts(), NIGHT).progress.ordered.share_ppm == 200_000
    )  # as far as nobody is there


def test_a_shadow_stage_expires_also_before_its_start_and_paused() -> None:
    p = plan(schedule=NIGHTS)
    assert NIGHTS.expires_at is not None
    for progress in (start(p, 0.0).progress, apply(p, start(p, 25_200.0).progress, "pause", 25_200.0).progress):
        over = decide(p, progress, ShadowFacts(), NIGHTS.expires_at)
        assert over.progress.state == "aborted" and over.events[0].name == "expired" and over.actions == (Clear(),)
    paused = apply(p, start(p, 0.0).progress, "pause", 0.0).progress
    assert decide(p, paused, ShadowFacts(), 25_200.0).progress.begun is False, "it waits for its operator"


def test_a_shadow_stage_ends_by_hand_at_any_hour_and_its_devices_are_asked_again_but_not_before_the_start() -> None:
    p = plan(schedule=NIGHTS)
    progress = start(p, 25_200.0).progress
    for order in ("promote", "retry"):
        assert apply(p, progress, order, 25_200.0, reason="seen").actions[0].share_ppm == 0
        with pytest.raises(TransitionError, match="waits for its start"):
            apply(p, start(p, 0.0).progress, order, 10.0, reason="seen")


def test_orders_mean_the_stage_that_was_seen() -> None:
    p = plan(approval=True)
    progress = start(p, 0.0).progress
    with pytest.raises(TransitionError, match="at stage 0 by now"):
        apply(p, progress, "promote", 1.0, reason="seen", stage=1)
    with pytest.raises(TransitionError, match="waits for no approval"):
        apply(p, progress, "approve", 1.0)
    promoted = apply(p, progress, "promote", 1.0, reason="seen by hand", stage=0)
    assert promoted.progress.number == 1 and promoted.actions == (Publish(share_ppm=200_000, attempt=1),)
    retried = apply(p, progress, "retry", 1.0, reason="agents were updated")
    assert retried.actions == (Publish(share_ppm=0, attempt=2, shadow=True),) and retried.progress.shadow is None


class Shadowed(RuleBasedStateMachine):
    """Random evidence, orders and clock: nobody is served before proof or an operator's word."""

    @initialize(halts=st.booleans())
    def begin(self, halts: bool) -> None:
        self.plan, self.now, self.agree = plan(on_no_evidence="halt" if halts else "hold"), 1000.0, 0
        first = start(self.plan, self.now)
        self.progress, self.published, self.proven = first.progress, 0, False

    def take(self, decision) -> None:
        self.progress = decision.progress
        for action in decision.actions:
            assert action == wanted(self.plan, self.progress)
            self.published = action.share_ppm if isinstance(action, Publish) else 0

    @rule(dt=st.floats(0, 300), more=st.integers(0, 80), differ=st.integers(0, 40), odd=st.booleans())
    def tick(self, dt: float, more: int, differ: int, odd: bool) -> None:
        self.now += dt
        self.agree += more
        found = seen((self.agree, differ), (self.agree, 0)) + (
            (ShadowSeen(device_id="odd", reason="crash-loop"),) if odd else ()
        )
        if not self.progress.shadowing:
            self.take(decide(self.plan, self.progress, RolloutFacts(), self.now))
            return
        self.take(decide(self.plan, self.progress, ShadowFacts(seen=found), self.now))
        verdict = self.progress.shadow
        self.proven |= verdict is not None and verdict.judgement == "healthy"
        assert not (odd and self.proven and self.progress.number == 1 and self.published and not self.progress.shadow)

    @rule(order=st.sampled_from(["pause", "resume", "retry", "abort", "promote"]), dt=st.floats(0, 300))
    def order(self, order, dt: float) -> None:
        self.now += dt
        try:
            decision = apply(self.plan, self.progress, order, self.now, reason="by hand")
        except TransitionError:
            return
        self.proven |= order == "promote"
        self.agree = 0 if order == "retry" else self.agree
        self.take(decision)

    @invariant()
    def nobody_is_served_before_proof(self) -> None:
        assert self.proven or self.published == 0
        assert self.progress.state not in ENDED or self.published == 0 or self.progress.state == "finished"


Shadowed.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=20, deadline=None)
TestShadowed = Shadowed.TestCase
