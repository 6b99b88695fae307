"""A rollout without an auditor and without labels, judged by what devices report of their requests, on a real hub."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlmodel import select

from cloud_hub.errors import ConflictError
from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts import facts as rollout_facts
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.rollout_rows import plan_and_progress
from cloud_hub.store.tables import Device, RolloutSignals, WindowRow
from fleet.rollouts import signals
from fleet.rollouts.schedule import Schedule
from tests.cloud_hub.rollouts.test_labelled import NAMES, commit, fleet, rollout_of, start
from tests.support.hub import HubFixture

__all__ = ["fleet"]
GUARD = {"evidence": "signals", "margin": 0.2}


def windows(
    fixture: HubFixture, count: int, cohort: Sequence[str] = (), *, failed: int = 0, requests: int = 50
) -> None:
    """`count` windows of each device, a minute long, in turn; those of the new release have so many failures."""
    with fixture.hub.session() as session:
        for _ in range(count):
            fixture.clock.advance(60)
            for name in NAMES:
                new = name in cohort
                session.get_one(Device, name).last_seen_at = fixture.clock()
                body = {
                    "counters": {"requests": requests, "failed": failed if new else 0},
                    "latency_us": [0] * 12 + [50],
                    "confidence": [0] * 18 + [50, 0],
                }
                session.add(
                    WindowRow(
                        device_id=name,
                        spool="s",
                        seq=int(fixture.clock()),
                        model="digits",
                        release=2 if new else 1,
                        started_at=fixture.clock() - 60,
                        ended_at=fixture.clock(),
                        body=body,
                    )
                )


def step(fixture: HubFixture, engine: RolloutEngine) -> None:
    fixture.clock.advance(rollout_facts.MATCHED_S)
    engine.step()


def test_a_release_that_behaves_as_the_last_goes_through(fleet: HubFixture) -> None:
    windows(fleet, 30)
    rollout, engine = start(fleet, guard=GUARD), RolloutEngine(fleet.hub)
    engine.step()  # what came before is the devices' habit
    cohort = commit(fleet, rollout)
    windows(fleet, 60, cohort)
    step(fleet, engine)
    assert plan_and_progress(rollout_of(fleet, rollout))[1].stage == 1
    commit(fleet, rollout)
    engine = RolloutEngine(fleet.hub)  # the hub was started again: what was counted is kept
    for _ in range(6):  # it has heard nobody for an hour, and is sure of who is silent after some minutes
        windows(fleet, 1, NAMES)
        step(fleet, engine)
    found = rollout_of(fleet, rollout)
    assert found.state == "finished", plan_and_progress(found)[1].verdict.reason
    assert "600 matched windows show it" in plan_and_progress(found)[1].verdict.reason
    assert "answers are not judged" in plan_and_progress(found)[1].verdict.goal


def test_one_whose_requests_fail_is_halted(fleet: HubFixture) -> None:
    windows(fleet, 30)
    rollout, engine = start(fleet, guard=GUARD), RolloutEngine(fleet.hub)
    engine.step()
    windows(fleet, 30, commit(fleet, rollout), failed=5)
    step(fleet, engine)
    found = rollout_of(fleet, rollout)
    assert found.state == "halted" and "outside of habit were with the new release 300 failed" in found.reason


def test_each_window_counts_once_and_habits_are_of_the_time_before(fleet: HubFixture) -> None:
    windows(fleet, 30)
    rollout, engine = start(fleet, guard=GUARD), RolloutEngine(fleet.hub)
    engine.step()
    cohort = commit(fleet, rollout)
    windows(fleet, 3, cohort)
    for _ in range(3):
        step(fleet, engine)
        engine.step()
    assert plan_and_progress(rollout_of(fleet, rollout))[1].verdict.paired.pairs == 30
    with fleet.hub.reading() as session:
        (row,) = session.exec(select(RolloutSignals)).all()
    assert row.document["first"] == 600 and row.document["last"] == 660
    assert set(row.document["habits"]) == set(NAMES) and None not in row.document["habits"].values()


def test_a_stage_after_a_long_one_has_windows_of_its_own(fleet: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "MOST_OF_ONE", 60)
    windows(fleet, 30)
    rollout, engine = start(fleet, (50, 75, 100), GUARD), RolloutEngine(fleet.hub)
    engine.step()
    windows(fleet, 80, commit(fleet, rollout))
    step(fleet, engine)
    cohort = commit(fleet, rollout)
    assert plan_and_progress(rollout_of(fleet, rollout))[1].stage == 1 and len(cohort) == 15
    for _ in range(12):
        windows(fleet, 1, cohort)
        step(fleet, engine)
    found = plan_and_progress(rollout_of(fleet, rollout))[1]
    assert found.stage == 2, found.verdict.reason


def test_what_is_usual_is_so_when_the_first_device_is_asked(fleet: HubFixture) -> None:
    windows(fleet, 30)
    wanted = {"model": "digits", "release": 2, "channel": "stable", "stages": [50, 100], "guard": GUARD}
    later = Schedule(start_at=fleet.clock() + 7200)
    create_rollout(fleet.hub, **wanted, schedule=later, actor="test")
    engine = RolloutEngine(fleet.hub)
    step(fleet, engine)
    windows(fleet, 130)
    with fleet.hub.reading() as session:
        assert session.exec(select(RolloutSignals)).all() == []
    for _ in range(3):  # it begins, orders, and looks
        step(fleet, engine)
    with fleet.hub.reading() as session:
        (row,) = session.exec(select(RolloutSignals)).all()
    assert row.document["first"] == 20 * 160


def test_without_requests_nothing_is_usual_and_the_rollout_is_refused(fleet: HubFixture) -> None:
    with pytest.raises(ConflictError, match="nothing tells what is usual") as refused:
        start(fleet, guard=GUARD)
    assert "a day of requests" in refused.value.hint
    windows(fleet, 1, requests=4)
    with pytest.raises(ConflictError, match="no window of the last day has 5 requests"):
        start(fleet, guard=GUARD)
    windows(fleet, 1)
    with pytest.raises(ConflictError, match="matched windows of 7 devices"):
        start(fleet, (10, 100), GUARD)
    body = {"model": "digits", "release": 2, "channel": "stable", "stages": [50, 100], "guard": GUARD}
    found = fleet.client.post("/api/v1/rollouts/plan", json=body, headers=fleet.auth()).json()["forecast"]
    assert found["unit"] == "matched windows" and found["blockers"] == [] and found["stages"][0]["seconds"] > 0
    assert "nothing shows whether the answers are right" in found["evidence"]
