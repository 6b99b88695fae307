"""A rollout without an auditor, judged by labels of both releases' samples, on a real hub."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from sqlmodel import col, select

from cloud_hub.errors import ConflictError
from cloud_hub.rollouts import create_rollout, labelled
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store import outcomes
from cloud_hub.store.rollout_rows import plan_and_progress
from cloud_hub.store.tables import ChannelRow, DeviceModel, RolloutLabel, RolloutRow, RolloutSignals, SampleRow
from fleet.protocol.channel import ModelEntry, Sampling, decode_channel
from fleet.protocol.resolve import resolve
from tests.cloud_hub.rollouts.test_engine import add_device
from tests.support.hub import HubFixture

NAMES = [f"d-{number:02}" for number in range(20)]
GUARD = {"evidence": "labels", "margin": 0.2}


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """Twenty devices on release 1 of a channel without an auditor, which draws samples; release 2 is published."""
    hub.model()
    for seed in range(2):
        hub.release(seed=seed)

    def first(channel):
        entry = ModelEntry(release=1, sampling=Sampling(enabled=True))
        return replace(channel, models={"digits": entry})

    hub.hub.publisher.change_channel("stable", first, actor="test")
    for name in NAMES:
        add_device(hub, name)
    return hub


def start(fleet: HubFixture, stages: tuple[int, ...] = (50, 100), guard: dict | None = None) -> str:
    wanted = {"model": "digits", "release": 2, "channel": "stable", "stages": list(stages), "actor": "test"}
    return create_rollout(fleet.hub, **wanted, guard=GUARD if guard is None else guard).id


def rollout_of(fleet: HubFixture, name: str) -> RolloutRow:
    with fleet.hub.reading() as session:
        return session.get_one(RolloutRow, name)


def commit(fleet: HubFixture, rollout: str) -> list[str]:
    """Let the cohort say that it has committed the release; returns the cohort."""
    with fleet.hub.session() as session:
        channel = decode_channel(session.get_one(ChannelRow, "stable").document)
        cohort = [name for name in NAMES if resolve(channel, "digits", name, committed=1).rollout is not None]
        for name in cohort:
            row = session.get(DeviceModel, (name, "digits")) or DeviceModel(device_id=name, model="digits", state="")
            row.rollout, row.attempt, row.at, row.state, row.active = rollout, 1, fleet.clock(), "committed", 2
            session.add(row)
    return cohort


def label(fleet: HubFixture, cohort: list[str], *, new: float, old: float, count: int = 600, **fields: object) -> None:
    """Random samples of all devices in turn, of which such a share is answered as the label says."""
    random = np.random.default_rng(0)
    others = [name for name in NAMES if name not in cohort]
    with fleet.hub.session() as session:
        for number in range(count):
            for release, names, rate in ((2, cohort, new), (1, others, old)):
                right = random.random() < rate
                values = {
                    "reason": "random",
                    "received_at": fleet.clock(),
                    "labelled_at": fleet.clock() + number,
                    **fields,
                }
                row = SampleRow(
                    id=f"{release}-{number}-{fleet.clock()}",
                    model="digits",
                    device_id=names[number % len(names)],
                    release=release,
                    variant="v",
                    at=0.0,
                    confidence=0.9,
                    prediction=1 if right else 2,
                    label=1,
                    path="-",
                    **values,
                )
                session.add(row)


def step(fleet: HubFixture, engine: RolloutEngine) -> None:
    fleet.clock.advance(60)
    engine.step()


def test_a_release_as_good_as_the_last_goes_through_by_labels_alone(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    cohort = commit(fleet, rollout)
    step(fleet, engine)
    verdict = plan_and_progress(rollout_of(fleet, rollout))[1].verdict
    assert verdict is not None and verdict.judgement == "not-enough-evidence" and "matched labels" in verdict.reason
    label(fleet, cohort, new=0.9, old=0.9)
    step(fleet, engine)
    assert plan_and_progress(rollout_of(fleet, rollout))[1].stage == 1
    commit(fleet, rollout)
    step(fleet, engine)
    found = rollout_of(fleet, rollout)
    assert found.state == "finished", plan_and_progress(found)[1]
    verdict = plan_and_progress(found)[1].verdict
    assert (
        verdict.goal == "not worse by more than 20 points, at 95 %" and "600 matched labels show it" in verdict.reason
    )


def test_one_that_is_worse_is_halted(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    label(fleet, commit(fleet, rollout), new=0.6, old=0.9)
    step(fleet, engine)
    assert rollout_of(fleet, rollout).state == "halted"
    assert "right only by the old release" in rollout_of(fleet, rollout).reason


@pytest.mark.parametrize("fields", [{"reason": "uncertain"}, {"received_at": 0.0}, {"deleted_at": 1.0}])
def test_what_was_chosen_came_before_or_is_gone_says_nothing(fleet: HubFixture, fields: dict) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    label(fleet, commit(fleet, rollout), new=0.0, old=1.0, count=100, **fields)
    step(fleet, engine)
    found = rollout_of(fleet, rollout)
    assert found.state == "running" and plan_and_progress(found)[1].verdict.paired.pairs == 0


def test_what_was_drawn_stays_when_samples_are_labelled_again_or_deleted(fleet: HubFixture) -> None:
    rollout, engine = start(fleet, guard={**GUARD, "min_pairs": 500}), RolloutEngine(fleet.hub)
    label(fleet, commit(fleet, rollout), new=0.9, old=0.9, count=100)
    step(fleet, engine)
    before = plan_and_progress(rollout_of(fleet, rollout))[1].verdict.paired
    with fleet.hub.session() as session:
        for number, row in enumerate(session.exec(select(SampleRow).order_by(col(SampleRow.id))).all()):
            if number % 2:
                row.deleted_at = fleet.clock()
            else:
                row.label, row.labelled_at = 2, fleet.clock() + number
            session.add(row)
    for again in (engine, RolloutEngine(fleet.hub)):  # one that knows what was drawn, and one that reads it
        step(fleet, again)
        assert plan_and_progress(rollout_of(fleet, rollout))[1].verdict.paired == before and before.pairs == 100


def test_more_labels_than_one_look_reads_are_drawn_one_look_after_the_other(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "BATCH", 60)
    rollout, engine = start(fleet, guard={**GUARD, "min_pairs": 500}), RolloutEngine(fleet.hub)
    label(fleet, commit(fleet, rollout), new=0.9, old=0.9, count=100)
    found = []
    for _ in range(5):
        step(fleet, engine)
        found.append(plan_and_progress(rollout_of(fleet, rollout))[1].verdict.paired.pairs)
    assert found == [30, 60, 90, 100, 100]


def test_what_an_ended_rollout_has_drawn_goes_with_the_reports_of_its_time(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    label(fleet, commit(fleet, rollout), new=0.6, old=0.9)
    step(fleet, engine)
    assert rollout_of(fleet, rollout).state == "halted"
    ended = rollout_of(fleet, rollout).ended_at

    def forget(before: float) -> int:
        with fleet.hub.session() as session:
            return outcomes.forget(session, before, 500)

    def kept() -> tuple[int, int]:
        with fleet.hub.reading() as session:
            return len(session.exec(select(RolloutLabel)).all()), len(session.exec(select(RolloutSignals)).all())

    assert forget(ended) == 0 and kept() == (1200, 1)
    assert [forget(ended + 1) for _ in range(4)] == [500, 500, 500, 0] and kept() == (0, 0)


def test_labels_of_devices_outside_of_the_rollout_say_nothing(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    add_device(fleet, "stranger", channel="beta")
    cohort = commit(fleet, rollout)
    label(fleet, ["stranger"], new=0.0, old=1.0, count=100)
    step(fleet, engine)
    verdict = plan_and_progress(rollout_of(fleet, rollout))[1].verdict
    assert verdict.paired.pairs == 0 and len(cohort) == 10


@pytest.mark.parametrize(
    ("stages", "guard", "sampling", "words"),
    [
        ((100,), GUARD, True, "0 beside it"),
        ((10, 100), GUARD, True, "labels of 7 devices"),
        ((50, 100), GUARD, False, "draws no samples"),
        ((50, 100), {**GUARD, "margin": 0.001}, True, "a margin of 0.1 points takes too many matched labels"),
    ],
)
def test_one_that_labels_could_never_finish_is_refused_with_what_to_add(
    fleet: HubFixture, stages: tuple[int, ...], guard: dict, sampling: bool, words: str
) -> None:
    def change(channel):
        entry = replace(channel.models["digits"], sampling=Sampling(enabled=sampling))
        return replace(channel, models={"digits": entry})

    fleet.hub.publisher.change_channel("stable", change, actor="test")
    with pytest.raises(ConflictError, match=words) as refused:
        start(fleet, stages, guard)
    assert refused.value.hint


def test_the_plan_says_how_many_labels_and_how_long(fleet: HubFixture) -> None:
    label(fleet, NAMES[:10], new=0.9, old=0.9, count=70)
    fleet.clock.advance(3600)
    with fleet.hub.reading() as session:
        assert labelled.per_day(session, "stable", "digits", fleet.clock()) == 20.0
    body = {"model": "digits", "release": 2, "channel": "stable", "stages": [50, 100], "guard": GUARD}
    answer = fleet.client.post("/api/v1/rollouts/plan", json=body, headers=fleet.auth())
    found = answer.json()["forecast"]
    assert answer.status_code == 200 and found["unit"] == "matched labels" and found["blockers"] == []
    assert found["stages"][0]["seconds"] == pytest.approx(found["pairs"] / (20 / 2) * 86_400)
    assert found["stages"][1]["pairs"] == 0 and any("labels of randomly drawn samples" in e for e in found["evidence"])
