"""The time and devices of a rollout, and what it lacks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fleet.protocol.channel import Audit
from fleet.rollouts.forecast import Forecast, forecast
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.situation import CannotFollow, ReportedTraffic, Scope, Situation
from fleet.rollouts.stages import plan_stages

AT = Situation(
    model="digits",
    channel="stable",
    scope=Scope(free=20, hardware={"pi": 20}),
    traffic=ReportedTraffic(hours=24, requests=86_400.0, audited=864.0),
    audit=Audit(auditor=1, share_ppm=10_000),
    most_per_device=2000,
)


def ahead(at: Situation = AT, *, soak_s: float = 0.0, **policy: object) -> Forecast:
    return forecast(GuardPolicy(**policy), plan_stages([10, 50, 100], soak_s=soak_s), at)


def test_stages_have_devices_inputs_and_times_from_the_measured_traffic() -> None:
    found = ahead(soak_s=60.0)
    assert [stage.devices for stage in found.stages] == [2, 10, 20]
    assert [stage.control for stage in found.stages] == [18, 10, 0]
    assert found.pairs == found.stages[0].pairs
    assert found.stages[0].seconds == pytest.approx(60 + found.stages[0].pairs / (864 * 2 / 86_400))
    assert found.seconds == pytest.approx(sum(stage.seconds or 0 for stage in found.stages))
    assert (
        found.blockers == ()
        and "failed and silent devices against the concurrent control of their hardware class, in stage 2"
        in found.evidence
    )


def test_a_comparison_is_promised_only_within_a_hardware_class() -> None:
    def compared(**hardware: int) -> bool:
        scope = Scope(free=sum(hardware.values()), hardware=hardware)
        return any("concurrent control" in line for line in ahead(replace(AT, scope=scope)).evidence)

    assert compared(pi=10, pc=10)
    assert not compared(pi=7, pc=7, mcu=6), "half of each is fewer than five"


def test_inputs_that_repeat_make_it_longer() -> None:
    once = ahead().seconds
    again = ahead(replace(AT, traffic=replace(AT.traffic, distinct=0.25))).seconds
    assert once is not None and again == pytest.approx(4 * once)


def test_what_one_device_brought_alone_carries_no_further() -> None:
    few = ahead(replace(AT, scope=Scope(free=6)))
    assert [stage.devices for stage in few.stages] == [1, 3, 6]
    alone, three, six = (stage.pairs for stage in few.stages)
    assert three > alone and 30 < six < three, "of six devices two decide nothing, so a third of the three's counts"


def test_the_plan_says_how_many_devices_decide_nothing_and_where_two_that_lie_together_could() -> None:
    def note(free: int) -> str:
        return " ".join(ahead(replace(AT, scope=Scope(free=free))).notes)

    assert "at least 2 of the first stage's 2 devices must bring audited inputs: one decides nothing" in note(20)
    assert "of fewer than 5 devices two that lie together can decide" in note(20)
    assert "at least 3 of the first stage's 10 devices must bring audited inputs: 2 decide nothing together" in note(
        100
    )
    assert "of fewer than" not in note(100)


def test_healthy_names_its_margin() -> None:
    assert ahead().goal == "not worse by more than 5 points, at 95 %"
    assert GuardPolicy(margin=0.01, alpha=0.1).goal == "not worse by more than 1 point, at 90 %"
    assert "answers are not judged" in ahead(evidence="install").goal


@pytest.mark.parametrize(
    ("changes", "policy", "what", "add"),
    [
        ({"audit": Audit()}, {}, "has no auditor", "--evidence install"),
        ({"mute": "release 1 has no cloud variant"}, {}, "no cloud variant", "--auditor N"),
        ({"partial": "it answers as release 1 does"}, {}, "it answers as release 1 does", "--auditor N"),
        ({"audit": Audit(auditor=1, share_ppm=0)}, {}, "audit share is 0", "--audit-share"),
        ({}, {"min_devices": 3}, "the first stage has 2 devices, and 3", "a larger first stage"),
        ({"most_per_device": 20}, {}, "distinct inputs in stage 1", "a wider margin"),
        ({}, {"margin": 0.0005}, "too many distinct inputs", "a wider margin"),
        ({"scope": Scope(pinned=2, ruled=1)}, {}, "none of the 3 devices", "lift pins"),
        ({"scope": Scope(unable=(CannotFollow(device="d", lacks=("x",)),))}, {"evidence": "install"}, "none", "agents"),
    ],
)
def test_one_that_could_never_finish_says_what_to_add(changes: dict, policy: dict, what: str, add: str) -> None:
    found = ahead(replace(AT, **changes), **policy)
    assert what in found.endless and add in found.add


@pytest.mark.parametrize("why", ["mute", "partial"])
def test_of_an_auditor_that_answers_or_compares_nothing_no_pairs_are_promised(why: str) -> None:
    assert any("audits" in line for line in ahead().evidence)
    assert not any("audits" in line for line in ahead(replace(AT, **{why: "it has no cloud variant"})).evidence)


def test_an_auditor_of_which_nobody_knows_whether_it_compares_anything_is_taken_and_told() -> None:
    found = ahead(replace(AT, unproven="nobody recorded it"))
    assert found.endless == "" and any(note.startswith("nobody recorded it; compile") for note in found.notes)
    assert not any("compile" in note for note in ahead().notes)


def test_by_time_and_install_health_alone_it_needs_no_auditor_and_says_what_that_means() -> None:
    found = ahead(replace(AT, audit=Audit()), evidence="install", soak_s=10.0)
    assert found.endless == "" and found.seconds == 30.0 and found.pairs == 0
    assert "nothing shows whether the answers are right" in found.evidence[0]
    assert any("no soak" in note for note in ahead(evidence="install").notes)


def test_without_traffic_nothing_tells_how_long() -> None:
    found = ahead(replace(AT, traffic=ReportedTraffic()))
    assert found.seconds is None and found.endless == ""
    assert any("no traffic" in note for note in found.notes)


def test_a_stage_beyond_its_deadline_says_what_happens_then() -> None:
    assert any("it holds until" in note for note in ahead(evidence_deadline_s=60.0).notes)
    assert any("it is halted" in note for note in ahead(evidence_deadline_s=60.0, on_no_evidence="halt").notes)
    assert not any("deadline" in note for note in ahead(evidence_deadline_s=1e9).notes)


def test_who_keeps_what_it_has_is_counted() -> None:
    scope = Scope(free=5, pinned=1, outside=2, unable=(CannotFollow(device="d", lacks=("x",)),))
    notes = ahead(replace(AT, scope=scope)).notes
    assert "4 of 9 devices keep what they have: 1 pinned, 2 outside of the groups, 1 lacking" in " ".join(notes)


def signalled(*stages: float, **traffic: float) -> Forecast:
    at = replace(AT, audit=Audit(), traffic=replace(AT.traffic, **traffic))
    return forecast(GuardPolicy(evidence="signals", margin=0.2), plan_stages(stages), at)


def test_signals_take_the_windows_that_say_something() -> None:
    found = signalled(50, 100, windows=1440.0)
    assert found.endless == "" and found.pairs is not None
    assert found.stages[0].seconds == pytest.approx(found.pairs / (10 * 1440 / 86_400))
    slow = signalled(50, 100, windows=24.0).stages[0].seconds
    assert slow == pytest.approx(60 * found.stages[0].seconds), "of as many requests, most come too thinly to say any"


def test_windows_of_too_few_requests_could_never_show_anything() -> None:
    found = signalled(50, 100, windows=0.0)
    assert "no window of the last day has 5 requests" in found.endless
    assert "fleet channel set stable --window 1h" in found.add


def test_a_stage_that_leaves_few_devices_rests_on_what_more_have_shown() -> None:
    found = signalled(50, 90, 100, windows=1440.0)
    assert [stage.control for stage in found.stages] == [10, 2, 0]
    assert found.stages[1].pairs == 30 and found.stages[1].seconds == pytest.approx(30 / (2 * 1440 / 86_400))
    assert found.seconds is not None and found.stages[2].pairs == 0
