"""The rollout's state machine, one rule at a time, and all rules together under random facts."""

from __future__ import annotations

from datetime import datetime
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fleet.protocol.resolve import in_cohort
from fleet.rollouts.cohorts import draw_salt
from fleet.rollouts.errors import PlanError, PolicyError, TransitionError
from fleet.rollouts.machine import (
    ENDED,
    Clear,
    DeviceFact,
    Plan,
    Progress,
    Promote,
    Publish,
    RolloutFacts,
    checked_plan,
    decide,
    newly_silent,
    start,
    wanted,
)
from fleet.rollouts.orders import apply
from fleet.rollouts.pacing import waits
from fleet.rollouts.pairs import Pairs
from fleet.rollouts.schedule import STEP_S, Rate, Schedule
from fleet.rollouts.stages import plan_stages
from tests.support.size import examples

DEVICES = tuple(f"device-{i}" for i in range(6))
SHARES = (200_000, 500_000, 1_000_000)
SALT = draw_salt(Random(0), DEVICES, SHARES, used=set())
FLAG = st.booleans()
RARELY = st.integers(0, 9).map(lambda number: number == 9)
ORDERS = ["promote", "approve", "pause", "resume", "resume", "promote", "retry", "approve", "promote", "abort"]
GOOD, BAD = Pairs(both=100), Pairs(both=60, only_old=40)


def plan(schedule: Schedule | None = None, **policy: object) -> Plan:
    return checked_plan(
        Plan(
            id="r1",
            model="digits",
            channel="stable",
            release=2,
            from_release=1,
            stages=plan_stages([20, 50, 100], soak_s=10),
            salt=SALT,
            policy={"evidence_deadline_s": 600, "silent_after_s": 100, **policy},
            schedule=schedule,
        )
    )


def cohort_at(progress: Progress) -> list[str]:
    share = SHARES[progress.stage] if progress.ordered is None else progress.ordered.share_ppm
    return [d for d in DEVICES if in_cohort(SALT, d, share)]


def facts(progress: Progress, now: float, **changes: object) -> RolloutFacts:
    """Every cohort device committed, seen now, with `GOOD` pairs, unless `changes` says otherwise."""
    base: dict[str, object] = {"last_seen": now, "committed": True, "pairs": GOOD, **changes}
    inside = cohort_at(progress)
    return RolloutFacts(
        cohort=tuple(DeviceFact(device_id=d, **base) for d in inside),  # type: ignore[arg-type]
        control=tuple(DeviceFact(device_id=d, last_seen=now) for d in DEVICES if d not in inside),
    )


def test_a_good_release_passes_every_stage_and_is_promoted() -> None:
    p, now, shares = plan(), 0.0, []
    decision = start(p, now)
    pairs = 0
    while decision.progress.state == "running":
        shares += [a.share_ppm for a in decision.actions if isinstance(a, Publish)]
        now, pairs = now + 11, pairs + 100
        decision = decide(p, decision.progress, facts(decision.progress, now, pairs=Pairs(both=pairs)), now)
    assert shares == list(SHARES)
    assert decision.actions == (Promote(release=2),)
    assert decision.progress.state == "finished" and decision.progress.ended_at == now
    assert decision.progress.exposed == len(DEVICES)


def test_a_bad_release_is_halted_in_its_first_stage_with_a_reason() -> None:
    p = plan()
    progress = start(p, 0).progress
    decision = decide(p, progress, facts(progress, 5, pairs=BAD), 5)
    assert decision.progress.state == "halted" and decision.actions == (Clear(),)
    assert "only by the old release" in decision.progress.reason
    assert decision.progress.exposed == len(cohort_at(progress))


def test_a_stage_soaks_after_everyone_committed() -> None:
    p = plan()
    progress = start(p, 0).progress
    progress = decide(p, progress, facts(progress, 50), 50).progress
    assert (progress.stage, progress.settled_at) == (0, 50)
    assert decide(p, progress, facts(progress, 59), 59).progress.stage == 0
    assert decide(p, progress, facts(progress, 60), 60).progress.stage == 1


def test_a_device_that_has_not_committed_holds_the_stage_back() -> None:
    p = plan()
    progress = start(p, 0).progress
    for now in (20.0, 40.0, 599.0):
        progress = decide(p, progress, facts(progress, now, committed=False), now).progress
        assert (progress.state, progress.stage) == ("running", 0)
    assert decide(p, progress, facts(progress, 601, committed=False), 601).progress.state == "holding"


def test_a_stage_waits_for_its_measured_p95_then_holds_and_goes_on_once_it_is_there() -> None:
    p = plan(max_p95_us=100.0)
    progress = start(p, 0).progress
    for now in (20.0, 599.0):
        progress = decide(p, progress, facts(progress, now), now).progress
        assert (progress.state, progress.stage) == ("running", 0)
    progress = decide(p, progress, facts(progress, 601), 601).progress
    assert progress.state == "holding" and "not enough evidence: 0 devices measured" in progress.reason
    decision = decide(p, progress, facts(progress, 620, p95_us=99.0), 620)
    assert (decision.progress.state, decision.progress.stage) == ("running", 1)
    assert "measured p95 at most 99 µs" in decision.events[-1].reason


def test_a_release_that_is_too_slow_is_halted() -> None:
    p = plan(max_p95_us=100.0)
    progress = start(p, 0).progress
    decision = decide(p, progress, facts(progress, 5, p95_us=101.0, hardware="rpi4"), 5)
    assert decision.progress.state == "halted" and decision.actions == (Clear(),)
    assert "the measured p95 is 101 µs on rpi4 hardware" in decision.progress.reason


def test_without_evidence_the_rollout_holds_by_default_and_moves_on_once_there_is_some() -> None:
    p = plan()
    progress = start(p, 0).progress
    progress = decide(p, progress, facts(progress, 600, pairs=Pairs()), 600).progress
    assert progress.state == "holding" and "0 audited pairs" in progress.reason
    decision = decide(p, progress, facts(progress, 611), 611)
    assert decision.progress.state == "running" and decision.progress.stage == 1
    assert [e.name for e in decision.events] == ["evidence-arrived", "advanced"]


def test_without_evidence_the_rollout_halts_when_the_policy_says_so() -> None:
    p = plan(on_no_evidence="halt")
    progress = start(p, 0).progress
    decision = decide(p, progress, facts(progress, 600, pairs=Pairs()), 600)
    assert decision.progress.state == "halted" and decision.actions == (Clear(),)


@pytest.mark.parametrize(("policy", "state"), [({}, "holding"), ({"on_no_evidence": "halt"}, "halted")])
def test_devices_that_fall_silent_after_joining_keep_the_stage_from_ending(policy: dict, state: str) -> None:
    p = plan(**policy)
    progress = start(p, 0).progress
    for now, expected in ((100.0, "running"), (121.0, "running"), (600.0, state)):
        decision = decide(p, progress, facts(progress, now, last_seen=20.0), now)
        assert (decision.progress.state, decision.progress.stage) == (expected, 0)
    assert "silent" in decision.progress.reason


def test_devices_that_fall_silent_where_the_control_does_not_halt_the_rollout() -> None:
    p = plan()
    progress = start(p, 0).progress
    heard = {"hardware": "pi", "committed": True}
    silent = tuple(DeviceFact(device_id=f"c{n}", last_seen=20.0, **heard) for n in range(12))
    for control_seen, state in ((20.0, "running"), (200.0, "halted")):
        control = tuple(DeviceFact(device_id=f"o{n}", last_seen=control_seen, hardware="pi") for n in range(60))
        assert decide(p, progress, RolloutFacts(cohort=silent, control=control), 200.0).progress.state == state


def test_a_device_that_loses_on_its_own_inputs_is_named_once_and_decides_for_no_other() -> None:
    p = plan()
    progress = start(p, 0).progress
    well = tuple(DeviceFact(device_id=f"c{n}", last_seen=5, committed=True, pairs=GOOD) for n in range(4))
    odd = DeviceFact(device_id="odd", last_seen=5, committed=True, pairs=Pairs(only_old=2000))
    decision = decide(p, progress, RolloutFacts(cohort=(*well, odd)), 5)
    assert decision.progress.state == "running"
    (event,) = [e for e in decision.events if e.name == "device-harmed"]
    assert event.reason.startswith("odd loses") and "--pin digits=1" in event.reason
    again = decide(p, decision.progress, RolloutFacts(cohort=(*well, odd)), 6)
    assert not any(e.name == "device-harmed" for e in again.events)


def test_a_device_that_left_takes_neither_its_failure_nor_its_pairs_along() -> None:
    p = plan()
    progress = start(p, 0).progress
    here = tuple(DeviceFact(device_id=f"c{n}", last_seen=5, committed=True, pairs=GOOD) for n in range(2))
    gone = tuple(DeviceFact(device_id=f"l{n}", last_seen=5, failed=True, reason="crash-loop") for n in range(2))
    decision = decide(p, progress, RolloutFacts(cohort=here, left=gone), 5)
    assert decision.progress.state == "halted" and "crash-loop" in decision.progress.reason
    bad = tuple(msgspec.structs.replace(fact, failed=False, pairs=BAD) for fact in gone)
    assert decide(p, progress, RolloutFacts(cohort=here[:1], left=bad), 5).progress.state == "halted"


def test_a_device_that_was_away_before_the_rollout_neither_fails_nor_delays_it() -> None:
    p = plan()
    progress = start(p, 1000).progress
    away = DeviceFact(device_id="device-away", last_seen=500.0)
    both = facts(progress, 1020)
    second = DeviceFact(device_id="device-second", last_seen=1020, committed=True, pairs=GOOD)
    decision = decide(p, progress, RolloutFacts(cohort=(*both.cohort, second, away), control=both.control), 1020)
    assert decision.progress.verdict is not None
    assert decision.progress.verdict.judgement == "healthy"
    assert decision.progress.verdict.cohort.present == len(both.cohort) + 1


def test_nobody_reachable_never_advances() -> None:
    p = plan(evidence="install")
    progress = start(p, 1000).progress
    assert decide(p, progress, facts(progress, 1500, last_seen=1.0), 1500).progress.stage == 0


def test_a_withdrawn_release_halts_and_a_changed_channel_aborts() -> None:
    p = plan()
    progress = start(p, 0).progress
    assert decide(p, progress, RolloutFacts(withdrawn="release 2 was withdrawn"), 1).progress.state == "halted"
    assert decide(p, progress, RolloutFacts(superseded="the default is now 3"), 1).progress.state == "aborted"


def test_a_paused_rollout_does_not_grow_but_is_still_halted() -> None:
    p = plan()
    progress = apply(p, start(p, 0).progress, "pause", 1, reason="by anna").progress
    after = decide(p, progress, facts(progress, 5000), 5000)
    assert (after.progress.state, after.progress.stage, after.actions) == ("paused", 0, ())
    assert decide(p, progress, facts(progress, 5000, pairs=BAD), 5000).progress.state == "halted"


def test_resuming_starts_the_evidence_clock_again() -> None:
    p = plan()
    progress = apply(p, start(p, 0).progress, "pause", 1).progress
    progress = apply(p, progress, "resume", 5000).progress
    assert decide(p, progress, facts(progress, 5599, pairs=Pairs()), 5599).progress.state == "running"
    assert decide(p, progress, facts(progress, 5600, pairs=Pairs()), 5600).progress.state == "holding"


def test_retry_raises_the_attempt_at_the_same_share() -> None:
    p = plan()
    decision = apply(p, start(p, 0).progress, "retry", 9)
    assert decision.progress.attempt == 2
    assert decision.actions == (Publish(share_ppm=SHARES[0], attempt=2),)


def test_a_stage_that_is_healthy_waits_for_its_approval() -> None:
    p = plan(approval=True)
    progress = start(p, 0).progress
    steps = []
    for now in (10.0, 15.0, 20.0, 21.0, 25.0):
        decision = decide(p, progress, facts(progress, now), now)
        progress = decision.progress
        steps.append((progress.state, progress.stage, [event.name for event in decision.events]))
    assert steps[:2] == [("running", 0, []), ("running", 0, [])], "it soaks"
    assert steps[2:] == [("holding", 0, ["awaiting-approval"]), ("holding", 0, []), ("holding", 0, [])]
    assert "waits for approval (fleet rollout approve r1 --stage 1)" in progress.reason
    approved = apply(p, progress, "approve", 30, reason="looks well")
    assert [(e.name, e.reason) for e in approved.events] == [("approved", "stage 1 of 3: looks well")]
    decision = decide(p, approved.progress, facts(approved.progress, 31), 31)
    assert (decision.progress.state, decision.progress.stage) == ("running", 1)
    for order in ("approve", "promote"):
        assert (
            decide(p, apply(p, progress, order, 32, reason="r").progress, facts(progress, 33), 33).progress.stage == 1
        )


def test_what_a_rollout_waits_for_is_said_as_it_changes() -> None:
    p = plan(approval=True, evidence="install")
    progress = start(p, 0).progress
    told = []
    for now, changes in ((600.0, {"committed": False}), (601.0, {}), (611.0, {}), (620.0, {"committed": False})):
        decision = decide(p, progress, facts(progress, now, **changes), now)
        progress = decision.progress
        told.append((progress.state, progress.awaits_approval, [event.name for event in decision.events]))
    assert told[0] == ("holding", False, ["holding"])
    assert told[1] == ("running", False, ["evidence-arrived"])
    assert told[2] == ("holding", True, ["awaiting-approval"])
    assert told[3] == ("holding", False, ["holding"]) and "0 devices committed" in progress.reason
    at_once = plan_stages([20, 50, 100])
    p = msgspec.structs.replace(p, stages=at_once)
    held = decide(p, start(p, 0).progress, facts(progress, 600, committed=False), 600).progress
    decision = decide(p, held, facts(held, 601), 601)
    assert [event.name for event in decision.events] == ["awaiting-approval"]
    crashed = decide(p, decision.progress, facts(held, 602, last_seen=1.0), 602).progress
    assert crashed.verdict is not None and crashed.reason == crashed.verdict.reason
    assert "healthy" not in crashed.reason


@pytest.mark.parametrize("order", ["approve", "promote"])
def test_an_order_that_is_given_twice_does_not_end_the_next_stage_too(order) -> None:
    p = plan(approval=True)
    progress = apply(p, start(p, 0).progress, order, 1, reason="looks well", stage=1).progress
    for now in (10.0, 21.0):
        progress = decide(p, progress, facts(progress, now), now).progress
    assert progress.stage == 1
    with pytest.raises(TransitionError, match=f"at stage 2 by now: {order} was meant for stage 1"):
        apply(p, progress, order, 22, reason="looks well", stage=1)


def test_an_outage_of_the_hub_neither_ends_a_stage_nor_holds_nor_halts_it() -> None:
    p = plan(on_no_evidence="halt", evidence="install")
    progress = start(p, 0).progress
    off, back = 550.0, 5000.0
    for now in (600.0, 4999.0):  # while nothing is heard
        known = msgspec.structs.replace(facts(progress, now, last_seen=off), deaf_until=now)
        assert newly_silent(p, progress, known, now) == ()
        progress = decide(p, progress, known, now).progress
        assert (progress.state, progress.stage) == ("running", 0)
    for now in (5001.0, 5099.0):  # some may have died meanwhile
        known = msgspec.structs.replace(facts(progress, now), deaf_until=back)
        progress = decide(p, progress, known, now).progress
        assert (progress.state, progress.stage) == ("running", 0)
    dead = msgspec.structs.replace(facts(progress, 5101.0, last_seen=off), deaf_until=back)
    assert newly_silent(p, progress, dead, 5101.0) == tuple(fact.device_id for fact in (*dead.cohort,))
    alive = msgspec.structs.replace(facts(progress, 5110.0), deaf_until=back)
    assert decide(p, progress, alive, 5110.0).progress.stage == 1
    assert decide(p, progress, msgspec.structs.replace(dead, deaf_until=back), 5601.0).progress.state == "halted"


def test_a_new_attempt_asks_for_its_own_approval() -> None:
    p = plan(approval=True)
    progress = apply(p, start(p, 0).progress, "approve", 1).progress
    progress = apply(p, progress, "retry", 2).progress
    for now in (10.0, 20.0):
        progress = decide(p, progress, facts(progress, now), now).progress
    assert (progress.stage, progress.awaits_approval) == (0, True)


def test_a_cohort_that_died_within_its_habit_is_no_health() -> None:
    p = plan(evidence="install")
    progress = start(p, 0).progress
    for now in (10.0, 3700.0):
        progress = decide(p, progress, facts(progress, now, last_seen=5.0, quiet_s=4 * 3600.0), now).progress
    assert progress.stage == 0 and progress.verdict is not None
    assert "no device of the cohort is reachable" in progress.verdict.reason


def test_one_that_left_does_not_decide_for_the_one_that_is_there() -> None:
    p = plan()
    progress = start(p, 0).progress
    here = DeviceFact(device_id="here", last_seen=50, committed=True)
    for pairs in (Pairs(both=2000), Pairs(only_old=30)):
        gone = DeviceFact(device_id="gone", last_seen=50, pairs=pairs)
        after = decide(p, progress, RolloutFacts(cohort=(here,), left=(gone,)), 50).progress
        assert (after.state, after.stage) == ("running", 0)
        assert after.verdict is not None and after.verdict.judgement == "not-enough-evidence"


def test_what_was_approved_early_still_needs_its_evidence() -> None:
    p = plan(approval=True)
    progress = apply(p, start(p, 0).progress, "approve", 1).progress
    assert decide(p, progress, facts(progress, 50, pairs=Pairs()), 50).progress.stage == 0
    halted = decide(p, progress, facts(progress, 50, pairs=BAD), 50).progress
    assert halted.state == "halted"
    with pytest.raises(TransitionError, match="asks for no approval"):
        apply(plan(), start(plan(), 0).progress, "approve", 1)


@pytest.mark.parametrize("before", [None, "pause"])
def test_promoting_by_hand_ends_a_stage_and_needs_a_reason(before: Any) -> None:
    p = plan()
    progress = start(p, 0).progress
    progress = decide(p, progress, facts(progress, 600, pairs=Pairs()), 600).progress
    assert progress.state == "holding"
    if before:
        progress = apply(p, progress, before, 601).progress
    with pytest.raises(TransitionError, match="needs a reason"):
        apply(p, progress, "promote", 602, reason=" ")
    names = []
    for stage in (1, 2, 2):
        decision = apply(p, progress, "promote", 603, reason="checked on the spot")
        progress = decision.progress
        names += [event.name for event in decision.events]
        assert progress.stage == stage and decision.actions == (wanted(p, progress),)
    assert progress.state == "finished" and progress.reason == "checked on the spot"
    assert names == ["promoted", "advanced", "promoted", "advanced", "promoted", "finished"]


def test_devices_that_neither_commit_nor_fail_end_a_rollout_where_no_evidence_halts() -> None:
    p = plan(on_no_evidence="halt", min_pairs=0)
    progress = start(p, 0).progress
    well = [DeviceFact(device_id=f"c{n}", last_seen=600, committed=True, pairs=GOOD) for n in range(3)]
    late = [DeviceFact(device_id=f"p{n}", last_seen=600) for n in range(2)]
    assert decide(p, progress, RolloutFacts(cohort=(*well, *late)), 600).progress.state == "halted"
    assert decide(p, progress, RolloutFacts(cohort=(*well, late[0])), 600).progress.state == "holding", "one of several"


@pytest.mark.parametrize("order", ["pause", "resume", "abort", "retry", "approve", "promote"])
def test_an_ended_rollout_takes_no_order(order) -> None:
    p = plan()
    ended = apply(p, start(p, 0).progress, "abort", 1).progress
    assert wanted(p, ended) == Clear()
    with pytest.raises(TransitionError, match="is aborted"):
        apply(p, ended, order, 2)


def test_a_running_rollout_cannot_be_resumed() -> None:
    p = plan()
    with pytest.raises(TransitionError, match="resume needs one that is paused or holding"):
        apply(p, start(p, 0).progress, "resume", 1)


def test_an_unreadable_policy_holds_whatever_the_facts() -> None:
    p = msgspec.structs.replace(plan(), policy={"alpha": 0.05, "new_rule": 1})
    progress = start(p, 0).progress
    decision = decide(p, progress, facts(progress, 50), 50)
    assert decision.progress.state == "holding" and "new_rule" in decision.progress.reason
    assert decision.actions == ()


def test_plans_are_checked() -> None:
    with pytest.raises(PolicyError, match="alhpa"):
        plan(alhpa=0.1)
    stages = plan_stages([100])
    with pytest.raises(PlanError, match="already runs release 1"):
        checked_plan(Plan(id="r", model="m", channel="c", release=1, from_release=1, stages=stages, salt="s"))


def test_plan_and_progress_survive_storage_as_documents() -> None:
    p = plan()
    progress = start(p, 0).progress
    progress = decide(p, progress, facts(progress, 50), 50).progress
    for value in (p, progress):
        stored = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(value)))
        assert msgspec.convert(stored, type(value)) == value


NIGHTS = Schedule(window="Mon-Fri 22:00-04:00", time_zone="Europe/Berlin")


def noon() -> float:
    return datetime(2026, 11, 23, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


def stepped(p: Plan, progress: Progress, times: list[float], **changes: object) -> Progress:
    for now in times:
        progress = decide(p, progress, facts(progress, now, **changes), now).progress
    return progress


def test_a_rollout_waits_for_its_start_and_says_so() -> None:
    p = plan(Schedule(start_at=600.0, time_zone="Europe/Berlin"))
    decision = start(p, 0)
    assert decision.actions == (Publish(share_ppm=0, attempt=1),)
    assert [e.name for e in decision.events] == ["scheduled"]
    progress = stepped(p, decision.progress, [1.0, 599.0])
    assert progress.state == "scheduled" and waits(p, progress, 599.0) == (
        "waits for its start, Thu 1970-01-01 01:10 Europe/Berlin"
    )
    for order in ("promote", "retry"):
        with pytest.raises(TransitionError, match=f"cannot {order} now: it waits for its start"):
            apply(p, progress, order, 599.0, reason="r")
    paused = apply(p, progress, "pause", 599.0).progress
    assert stepped(p, paused, [700.0]).state == "paused"
    assert apply(p, paused, "resume", 599.5).progress.state == "scheduled"
    assert apply(p, progress, "abort", 599.0).progress.state == "aborted"
    progress = stepped(p, progress, [601.0, 602.0])
    assert (progress.state, progress.started_at, wanted(p, progress)) == (
        "running",
        601.0,
        Publish(share_ppm=SHARES[0], attempt=1),
    )


def test_nothing_is_ordered_and_no_stage_ends_outside_of_the_window_but_harm_halts_at_once() -> None:
    p, now = plan(NIGHTS, evidence="install"), noon()
    progress = stepped(p, start(p, now).progress, [now + 1, now + 3600])
    assert wanted(p, progress) == Publish(share_ppm=0, attempt=1)
    assert waits(p, progress, now + 3600) == "waits for its window, opens Mon 2026-11-23 22:00 Europe/Berlin"
    opens, closes = now + 10 * 3600, now + 16 * 3600
    progress = stepped(p, progress, [opens, closes - 5.0])
    assert progress.ordered.share_ppm == SHARES[0] and waits(p, progress, closes - 5.0) == ""
    progress = stepped(p, progress, [closes + 6.0, closes + 3600])
    assert (progress.stage, progress.settled_at) == (0, closes - 5.0)
    bad = facts(progress, closes + 3600, failed=True)
    assert decide(p, progress, bad, closes + 3600).progress.state == "halted"
    with pytest.raises(TransitionError, match="cannot retry now: it waits for its window, opens Tue"):
        apply(p, progress, "retry", closes + 3600)
    assert stepped(p, progress, [opens + 86_400]).stage == 1


def test_closed_hours_count_neither_for_the_deadline_nor_as_silence() -> None:
    p, now = plan(NIGHTS), noon()
    opens, closes = now + 10 * 3600, now + 16 * 3600
    progress = stepped(p, start(p, now).progress, [closes - 90.0], pairs=Pairs())
    again = opens + 86_400
    for at in (closes + 60.0, again + 1.0):
        seen = facts(progress, at, last_seen=closes - 90.0, pairs=Pairs(), quiet_s=0.0)
        assert newly_silent(p, progress, seen, at) == ()
        progress = decide(p, progress, seen, at).progress
        assert progress.state == "running"
    silent = facts(progress, again + 11.0, last_seen=closes - 90.0, pairs=Pairs())
    assert newly_silent(p, progress, silent, again + 11.0), "90 s before it closed, 11 s after it opened"
    assert stepped(p, progress, [again + 509.0], pairs=Pairs()).state == "running"
    assert stepped(p, progress, [again + 511.0], pairs=Pairs()).state == "holding"


def test_a_rate_orders_so_many_a_minute_and_a_stage_ends_only_once_all_are_ordered() -> None:
    p = plan(Schedule(rate=Rate(per_minute=1)), evidence="install")
    progress, counts = start(p, 0).progress, []
    for now in range(0, 400, 20):
        progress = stepped(p, progress, [float(now)])
        counts.append(len(cohort_at(progress)))
    assert counts == [min(6, 1 + step // 3) for step in range(20)]
    assert progress.state == "finished"


def test_a_retry_is_paid_for_by_the_rate() -> None:
    p = plan(Schedule(rate=Rate(per_minute=1)), max_install_failures=0.9)
    progress = stepped(p, start(p, 0).progress, [0.0, 60.0], pairs=Pairs())
    verdict = progress.verdict
    assert verdict is not None
    failed = msgspec.structs.replace(verdict, cohort=msgspec.structs.replace(verdict.cohort, failed=3))
    decision = apply(p, msgspec.structs.replace(progress, verdict=failed, stage=2, stage_times=(0.0,) * 3), "retry", 90)
    assert decision.progress.ordered.credit == -3.0
    sizes = []
    progress = decision.progress
    for now in (150.0, 210.0, 270.0, 329.0, 330.0, 390.0):
        progress = stepped(p, progress, [now], pairs=Pairs())
        sizes.append(len(cohort_at(progress)))
    assert sizes == [1, 1, 1, 1, 2, 3]


def test_the_last_stage_is_not_promoted_before_all_of_its_devices_are_ordered() -> None:
    p = plan(Schedule(rate=Rate(per_minute=1)))
    progress = start(p, 0).progress
    for _ in range(2):
        progress = apply(p, progress, "promote", 1, reason="r").progress
    assert (progress.stage, progress.ordered.share_ppm) == (2, 0)
    with pytest.raises(TransitionError, match="cannot promote now: it orders 1 devices per minute: 0 % of 100 %"):
        apply(p, progress, "promote", 2, reason="r")


@pytest.mark.parametrize("order", ["", "pause"])
def test_a_rollout_that_has_not_finished_by_its_expiry_is_aborted(order: Any) -> None:
    p = plan(Schedule(expires_at=500.0, time_zone="Asia/Tokyo"))
    progress = start(p, 0).progress
    progress = apply(p, progress, order, 1).progress if order else progress
    assert stepped(p, progress, [499.0]).state in ("running", "paused")
    decision = decide(p, progress, facts(progress, 500), 500)
    assert decision.progress.state == "aborted" and decision.actions == (Clear(),)
    assert [e.name for e in decision.events] == ["expired"]
    assert decision.progress.reason == "it has expired, at Thu 1970-01-01 09:08 Asia/Tokyo, before it had finished"


def test_closed_hours_before_a_rollout_are_no_silence_of_devices_that_report_every_other_day() -> None:
    p, now = plan(NIGHTS, silent_after_s=2 * 86_400.0), noon()
    opens = now + 10 * 3600.0
    progress, heard = stepped(p, start(p, now).progress, [opens], pairs=Pairs()), opens - 47 * 3600.0  # on Saturday
    for hours, silent in ((7 * 24 + 15.5, False), (15 * 24, True)):  # 35.5 open hours, and more than 48
        at = now + hours * 3600.0
        seen = facts(progress, at, last_seen=heard, pairs=Pairs(), quiet_s=0.0)
        assert bool(newly_silent(p, progress, seen, at)) is silent
    huge = plan(NIGHTS, silent_after_s=1e300)
    assert newly_silent(huge, progress, facts(progress, at, last_seen=heard, pairs=Pairs()), at) == ()


def test_a_window_that_this_hub_cannot_read_stays_closed_and_halts_nothing_less() -> None:
    p = plan(Schedule(window="Mon-Fri 22:00-04:00", time_zone="Mars/Olympus"))
    progress = stepped(p, start(p, 0).progress, [1.0, 5000.0])
    assert progress.ordered.share_ppm == 0 and "no time zone 'Mars/Olympus'" in waits(p, progress, 1.0)
    grown = msgspec.structs.replace(progress, ordered=msgspec.structs.replace(progress.ordered, share_ppm=SHARES[0]))
    assert decide(p, grown, facts(grown, 6000, pairs=BAD), 6000).progress.state == "halted"


COUNT = st.integers(0, 2**62)


@given(
    devices=st.integers(2, 30),
    now=st.floats(0, 1e5),
    failed=FLAG,
    committed=FLAG,
    untried=FLAG,
    pairs=st.builds(Pairs, both=COUNT, only_old=COUNT, only_new=COUNT, neither=COUNT, repeats=COUNT, unnamed=COUNT),
    p95_us=st.floats(0, allow_nan=False),
    quiet=st.floats(0, 1e6),
    evidence=st.sampled_from(["paired", "install"]),
    where=st.lists(st.sampled_from(["here", "away", "left"]), min_size=29, max_size=29),
    gone=FLAG,
)
@settings(max_examples=examples(60), deadline=None)
def test_whatever_one_device_of_several_says_neither_ends_a_rollout_nor_lets_it_grow(
    devices, now, failed, committed, untried, pairs, p95_us, quiet, evidence, where, gone
) -> None:
    now += 1e6
    p = plan(max_p95_us=100.0, min_pairs=0, evidence=evidence)
    progress = start(p, now).progress
    # Of the others some are reachable, some are off since before, and some were pinned or moved meanwhile.
    places: dict[str, list[DeviceFact]] = {"here": [], "away": [], "left": []}
    for n, place in zip(range(devices - 1), where, strict=False):
        seen = {"last_seen": 1.0} if place == "away" else {"last_seen": now, "committed": True, "p95_us": 50.0}
        places[place].append(DeviceFact(device_id=f"d{n}", **seen))
    enemy = DeviceFact(
        device_id="enemy",
        last_seen=now,
        hardware="own",
        failed=failed,
        committed=committed,
        untried=untried,
        pairs=pairs,
        p95_us=p95_us,
        quiet_s=quiet,
    )
    here = (*places["here"], *places["away"])
    left = tuple(places["left"])
    known = RolloutFacts(cohort=here, left=(*left, enemy)) if gone else RolloutFacts(cohort=(*here, enemy), left=left)
    progress = decide(p, progress, known, now).progress
    decision = decide(p, progress, known, now + 11)  # after the soak
    assert decision.progress.state in ("running", "holding")
    if evidence == "paired" or len(places["here"]) == 0:
        assert decision.progress.stage == 0 and decision.actions == ()


# Open for ten minutes of every twenty, from 1970 on: what a few hundred steps of some minutes each live through.
WINDOW = ";".join(f"{m // 60:02d}:{m % 60:02d}-{(m + 10) // 60:02d}:{(m + 10) % 60:02d}" for m in range(20, 660, 20))
WINDOWS = st.sampled_from(["", WINDOW])
RATES = st.sampled_from([Rate(per_minute=1), Rate(per_minute=1, factor=2, after=1, most=4)])
SCHEDULES = st.one_of(
    st.none(),
    st.builds(
        Schedule,
        window=WINDOWS,
        rate=st.none() | RATES,
        start_at=st.sampled_from([None, 1000.0, 1300.0]),
        expires_at=st.sampled_from([None, 9000.0]),
    ),
)


class Rollout(RuleBasedStateMachine):
    """Random facts, orders, schedules and clock: exposure follows the stages, the window and the rate, ends absorb,
    silence is never health."""

    @initialize(approval=FLAG, halts=FLAG, schedule=SCHEDULES)
    def begin(self, approval: bool, halts: bool, schedule: Schedule | None) -> None:
        self.create(approval, halts, schedule)

    def create(self, approval: bool, halts: bool, schedule: Schedule | None) -> None:
        self.plan = plan(schedule, approval=approval, on_no_evidence="halt" if halts else "hold")
        self.now, self.pairs = 1000.0, 0
        self.passed = 0.0  # seconds, whatever the clock says
        self.ordered_at: float | None = None
        first = start(self.plan, self.now)
        (action,) = first.actions
        assert isinstance(action, Publish)
        self.progress, self.published = first.progress, action.share_ppm
        assert self.published == (0 if schedule is not None and schedule.paces else SHARES[0])
        self.ended: Progress | None = None

    def later(self, dt: float) -> None:
        self.now, self.passed = self.now + dt, self.passed + dt

    def take(self, decision) -> None:
        before, share = self.progress, self.published
        self.progress = decision.progress
        for action in decision.actions:
            assert action == wanted(self.plan, self.progress)
            self.published = action.share_ppm if isinstance(action, Publish) else 0
        if self.published > share:
            self.orders(share)
        if any(event.name in ("finished", "advanced") for event in decision.events):
            assert self.is_open() or decision.events[0].name == "promoted"
        assert self.progress.stage - before.stage in (0, 1)
        if self.progress.state == "finished":
            assert before.stage == len(SHARES) - 1
        if self.ended is not None:
            assert self.progress == self.ended and decision.actions == ()
        if self.progress.state in ENDED:
            self.ended = self.progress

    def is_open(self) -> bool:
        asked = self.plan.schedule
        return asked is None or not asked.window or (self.now >= 1200 and self.now % 1200 < 600)

    def orders(self, share: int) -> None:
        """Orders of this moment are within window and rate; nothing before the start."""
        asked = self.plan.schedule
        if asked is None or not asked.paces:
            return
        assert self.is_open() and self.progress.state == "running" and self.now >= (asked.start_at or 0)
        count = sum(in_cohort(SALT, d, self.published) and not in_cohort(SALT, d, share) for d in DEVICES)
        if asked.rate is not None and count:
            verdict = self.progress.verdict
            assert verdict is not None
            assert count <= asked.rate.at(verdict.cohort.committed + verdict.cohort.resting)
            assert self.ordered_at is None or self.passed - self.ordered_at >= STEP_S - 1e-6
            self.ordered_at = self.passed

    @rule(dt=st.floats(0, 5000))
    def clock_is_set_back(self, dt: float) -> None:
        self.now = max(1000.0, self.now - dt)

    @precondition(lambda self: self.progress.state not in ENDED)
    @rule()
    def hub_is_away_for_an_hour(self) -> None:
        self.later(3600.0)

    @rule(dt=st.floats(0, 400), committed=FLAG, failed=RARELY, new=st.integers(0, 80), bad=RARELY)
    def tick(self, dt: float, committed: bool, failed: bool, new: int, bad: bool) -> None:
        self.later(dt)
        self.pairs += new
        pairs = Pairs(both=self.pairs, only_old=self.pairs if bad else 0)
        seen = facts(self.progress, self.now, committed=committed, failed=failed, pairs=pairs)
        stage, was_open = self.progress.stage, self.progress.state not in ENDED
        approved = self.progress.approved > stage or not self.plan.policy["approval"]
        begun, told = self.progress.begun, bool(seen.cohort)
        self.take(decide(self.plan, self.progress, seen, self.now))
        if was_open and not self.is_over() and failed and begun and told:
            assert self.progress.state == "halted"
        if was_open and (not committed or not approved):
            assert self.progress.stage == stage and self.progress.state != "finished"

    @rule(dt=st.sampled_from([5.0, 20.0, 61.0]))
    def all_is_well(self, dt: float) -> None:
        self.tick(dt, committed=True, failed=False, new=80, bad=False)

    @precondition(lambda self: self.progress.state not in ENDED)
    @rule()
    def silence(self) -> None:
        last, stage = self.now, self.progress.stage
        self.later(101)
        self.take(decide(self.plan, self.progress, facts(self.progress, self.now, last_seen=last), self.now))
        assert self.progress.stage == stage and self.progress.state != "finished"

    @rule(order=st.sampled_from(ORDERS), dt=st.floats(0, 400))
    def order(self, order, dt: float) -> None:
        self.later(dt)
        try:
            decision = apply(self.plan, self.progress, order, self.now, reason="by hand")
        except TransitionError:
            assert order in ("resume", "approve", "retry", "promote") or self.progress.state in (*ENDED, "paused")
            return
        assert self.ended is None
        if order == "retry":
            self.pairs = 0
        self.take(decision)

    def is_over(self) -> bool:
        """Tell whether it has expired."""
        asked = self.plan.schedule
        return asked is not None and asked.expires_at is not None and self.now >= asked.expires_at

    @invariant()
    def exposes_no_more_than_the_stage_allows(self) -> None:
        allowed = 0 if self.progress.state in ENDED else SHARES[self.progress.stage]
        assert self.published <= allowed


class RatedRollout(Rollout):
    """With a rate, and nothing that ends it by itself: what is ordered, step by step."""

    @initialize(schedule=st.builds(Schedule, window=WINDOWS, rate=RATES), stages=st.sampled_from([0, 1, 2]))
    def begin(self, schedule: Schedule, stages: int) -> None:
        self.create(approval=False, halts=False, schedule=schedule)
        for _ in range(stages):
            self.take(apply(self.plan, self.progress, "promote", self.now, reason="by hand"))


SIZE = settings(max_examples=examples(60), stateful_step_count=25, deadline=None)
Rollout.TestCase.settings = RatedRollout.TestCase.settings = SIZE
TestRollout, TestRatedRollout = Rollout.TestCase, RatedRollout.TestCase
