"""`fleet rollout watch` on a terminal."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from fleet.api.rollouts import RolloutEventInfo, RolloutInfo
from fleet.cli.watching import lines
from fleet.rollouts.evidence import PairedEvidence
from fleet.rollouts.guard import CohortHealth, Failures, GuardVerdict
from fleet.rollouts.machine import Plan, Progress, checked_plan
from fleet.rollouts.remaining import Remaining
from fleet.rollouts.shadow import ShadowVerdict
from fleet.rollouts.stages import plan_stages

FAILURES = (
    Failures(reason="crash-loop", devices=12, example="cam-[7]"),
    Failures(reason="silent", devices=3, example="cam-9"),
)
COHORT = CohortHealth(present=50, committed=30, pending=5, failed=15, resting=2, failures=FAILURES)
PAIRED = PairedEvidence(pairs=400, only_old=6, only_new=2, devices=40, loss_at_most=0.043)
VERDICT = GuardVerdict(judgement="not-enough-evidence", reason="few pairs", cohort=COHORT, paired=PAIRED)


def rollout(**changes: Any) -> RolloutInfo:
    plan = checked_plan(
        Plan(
            id="r-7",
            model="digits",
            channel="stable",
            release=2,
            from_release=1,
            salt="s",
            stages=plan_stages((10, 100)),
        )
    )
    fields = {"id": "r-7", "model": "digits", "channel": "stable", "release": 2, "from_release": 1, "state": "running"}
    return RolloutInfo(**{**fields, "plan": plan, "progress": Progress(), "stages": [10.0, 100.0], **changes})


def test_evidence_its_interval_the_time_to_a_verdict_and_failures_by_reason() -> None:
    left = Remaining(needed=700, missing=300, per_hour=100.0, seconds=10_800.0)
    event = RolloutEventInfo(id=1, rollout="r-7", at=0.0, event="started")
    shown = lines(rollout(verdict=VERDICT, remaining=left, stage=1, exposed_devices=50), [event])
    told = dict(shown)
    assert told["rollout"] == "r-7: digits 1 → 2 on stable"
    assert told["stage"] == "1 of 2: 10 %; 50 devices so far"
    assert told["devices"] == "30 of 50 committed, 5 pending, 15 failed, 2 quiet"
    assert told["net loss"] == "1 % of 400 pairs on 40 devices; at most 4.3 %"
    assert told["to a verdict"] == "300 more pairs at 100 per hour: about 3 h"
    at = [name for name, _ in shown].index("failures")
    assert [text for _, text in shown[at : at + 2]] == [
        "12 × crash-loop, such as cam-[7]",
        "3 × silent, such as cam-9",
    ]
    assert "started" in told["history"]


def test_a_shadow_stage_shows_its_evidence_and_who_compares_nothing() -> None:
    verdict = ShadowVerdict(
        judgement="not-enough-evidence",
        reason="few inputs",
        inputs=200,
        differ=4,
        devices=3,
        differ_at_most=0.08,
        slower=1.25,
        not_compared=(Failures(reason="no-variant", devices=2, example="cam-1"),),
    )
    shown = lines(rollout(shadow=verdict, stage=0), [])
    told = dict(shown)
    assert told["stage"] == "shadow, before 10 %, 100 %; nobody is served release 2"
    assert told["shadow"] == "not-enough-evidence: few inputs"
    assert told["answers differ"] == "2 % of 200 on 3 devices; at most 8 %"
    assert ("", "1.25 times the other release's time") in shown
    assert told["not compared"] == "2 × no-variant, such as cam-1"


def test_one_that_nothing_is_known_of_yet_has_no_evidence() -> None:
    assert [name for name, _ in lines(rollout(), [])] == ["rollout", "state", "stage"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_table_until_the_end(fleet, hub, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    live = rollout(verdict=VERDICT).model_dump(mode="json", exclude_unset=True)
    hub.on("GET", "/rollouts/r-7", live, {**live, "state": "finished"})
    hub.on("GET", "/rollouts/r-7/events", {"items": [], "next": None})
    lines = [
        json.loads(line) for line in fleet("rollout", "watch", "r-7", "--timeout", "10", "--json").out.splitlines()
    ]
    assert [line["state"] for line in lines] == [live["state"], "finished"]
    assert "12 × crash-loop, such as cam-[7]" in terminal.getvalue()
