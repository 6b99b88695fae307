"""Rollouts with a start, a window, a rate and an expiry on a real hub: what the channel holds, and what is said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sqlmodel import select

from cloud_hub.dashboard.views.overview import overview
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.rollout_rows import plan_and_progress
from cloud_hub.store.tables import ChannelRow, Device
from fleet.rollouts.machine import Progress
from tests.support.hub import HubFixture
from tests.support.rollouts import cohort, entry, evidence, history, live, make_fleet, row_of

DAY_S = 86_400.0
GUARD = {"evidence": "install", "max_install_failures": 0.9}
WANTED = {"model": "digits", "release": 2, "channel": "stable", "stages": [34, 100], "guard": GUARD}
NIGHTS = {"window": "Mon-Fri 22:00-04:00", "time_zone": "UTC"}


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """At noon of a Monday, UTC."""
    made = make_fleet(hub)
    days = int(made.clock() // DAY_S) + 1
    days += (4 - days) % 7  # 1970 began on a Thursday
    made.clock.now = days * DAY_S + DAY_S / 2
    return made


def post(fleet: HubFixture, path: str = "", **schedule: Any) -> Any:
    body = {**WANTED, "schedule": schedule}
    return fleet.client.post(f"/api/v1/rollouts{path}", json=body, headers=fleet.auth())


def announce(fleet: HubFixture) -> None:
    """Tell devices of what the channel says, as the ingest does."""
    with fleet.hub.session() as session:
        row = session.get_one(ChannelRow, "stable")
        row.notified_version = row.version
        session.add(row)


def create(fleet: HubFixture, **schedule: Any) -> str:
    announce(fleet)
    answer = post(fleet, **schedule)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


def show(fleet: HubFixture, rollout: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.client.get(f"/api/v1/rollouts/{rollout}", headers=fleet.auth()).json()
    return found


def look(fleet: HubFixture, engine: RolloutEngine, after_s: float = 0.0) -> list[str]:
    """Every device is heard, the cohort commits, and the engine takes a step; the devices that are ordered by then."""
    fleet.clock.advance(after_s)
    announce(fleet)
    with fleet.hub.session() as session:
        for device in session.exec(select(Device)):
            device.last_seen_at = fleet.clock()
            session.add(device)
    rollout = entry(fleet).rollout
    if rollout is not None:
        evidence(fleet, rollout.id)
    engine.look()
    return cohort(fleet)


def spread_s(fleet: HubFixture) -> int:
    with fleet.hub.reading() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None
        return row.spread_s


def test_a_rollout_waits_for_its_start_then_for_its_window_and_says_so_everywhere(fleet: HubFixture) -> None:
    start = fleet.clock() + 7 * 3600
    rollout, engine = create(fleet, start_at=start, **NIGHTS), RolloutEngine(fleet.hub)
    assert look(fleet, engine, 60) == [] and entry(fleet).rollout is not None
    found = show(fleet, rollout)
    assert found["state"] == "scheduled" and found["waits"].startswith("waits for its start, Mon ")
    assert look(fleet, engine, 7 * 3600) == []
    found = show(fleet, rollout)
    assert found["state"] == "running" and found["waits"].startswith("waits for its window, opens Mon ")
    assert found["waits"].endswith(" 22:00 UTC")
    assert overview(fleet.hub, {}).rollouts[0].waits == found["waits"]
    assert len(look(fleet, engine, 3 * 3600)) == 1 and show(fleet, rollout)["waits"] == ""
    assert spread_s(fleet) == 0
    assert history(fleet, rollout) == ["scheduled", "started"]


def test_a_closed_window_neither_delays_a_halt_nor_lets_a_stage_end(fleet: HubFixture) -> None:
    rollout, engine = create(fleet, **NIGHTS), RolloutEngine(fleet.hub)
    assert len(look(fleet, engine, 10 * 3600)) == 1
    look(fleet, engine, 6 * 3600)
    assert len(look(fleet, engine, 60)) == 1 and row_of(fleet, rollout).state == "running"
    answer = fleet.client.post(f"/api/v1/rollouts/{rollout}/retry", json={}, headers=fleet.auth())
    assert answer.status_code == 409 and "waits for its window, opens Tue" in answer.text
    for order, state in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        answer = fleet.client.post(f"/api/v1/rollouts/{rollout}/{order}", json={}, headers=fleet.auth())
        assert answer.json()["state"] == state
    assert cohort(fleet) == [] and entry(fleet).rollout is None


def test_a_rate_holds_with_two_hubs_and_after_a_hub_was_away(fleet: HubFixture) -> None:
    rollout = create(fleet, rate={"per_minute": 1.0})
    engines = [RolloutEngine(fleet.hub), RolloutEngine(fleet.hub)]
    sizes = []
    for turn, after_s in enumerate((1, 1, 1, 30, 30, 1, 3600)):
        sizes.append(len(look(fleet, engines[turn % 2], after_s)))
    assert sizes == [1, 1, 1, 1, 2, 2, 3]
    assert spread_s(fleet) == 60, "devices look within the minute"
    look(fleet, engines[0], 1)
    assert row_of(fleet, rollout).state == "finished"


def test_a_halt_is_told_to_all_at_once_though_orders_are_spread(fleet: HubFixture) -> None:
    rollout, engine = create(fleet, rate={"per_minute": 1.0}), RolloutEngine(fleet.hub)
    look(fleet, engine, 1)
    assert spread_s(fleet) == 60
    row = row_of(fleet, rollout)
    with pytest.raises(msgspec.ValidationError):  # as an older hub reads it, which would order the whole stage
        msgspec.convert(row.progress, Progress)
    assert plan_and_progress(row)[1].stage == 0
    fleet.client.post(f"/api/v1/rollouts/{rollout}/abort", json={}, headers=fleet.auth())
    assert entry(fleet).rollout is None and spread_s(fleet) == 0


def test_a_step_that_is_announced_with_a_halt_hurries_as_it_does(fleet: HubFixture) -> None:
    """One notice tells of both: another model's halt must not wait until all have looked at the step in turn."""
    create(fleet)
    announce(fleet)
    for spread, told in ((60, 60), (0, 0), (200, 0)):
        fleet.hub.publisher.change_channel("stable", lambda channel: channel, actor="t", spread_s=spread)
        assert spread_s(fleet) == told
    announce(fleet)
    fleet.hub.publisher.change_channel("stable", lambda channel: channel, actor="t", spread_s=200)
    assert spread_s(fleet) == 200


def test_without_a_rate_devices_look_in_turn_too_from_the_first_step_to_the_end_but_for_a_halt(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.rollouts.schedule.LOOKS_PER_S", 0.1)
    rollout = create(fleet)
    assert spread_s(fleet) == 30
    fleet.client.post(f"/api/v1/rollouts/{rollout}/abort", json={}, headers=fleet.auth())
    assert entry(fleet).rollout is None and spread_s(fleet) == 0
    create(fleet)
    engine, told = RolloutEngine(fleet.hub), []
    while entry(fleet).rollout is not None:
        look(fleet, engine, 60)
        told.append(spread_s(fleet))
    assert set(told) == {30}


def test_a_halt_that_comes_into_a_step_is_told_to_all_at_once(fleet: HubFixture, monkeypatch) -> None:
    rollout, engine = create(fleet, rate={"per_minute": 1.0}), RolloutEngine(fleet.hub)
    publish = fleet.hub.publisher.change_channel

    def meanwhile(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(fleet.hub.publisher, "change_channel", publish)
        fleet.client.post(f"/api/v1/rollouts/{rollout}/abort", json={}, headers=fleet.auth())
        return publish(*args, **more)

    monkeypatch.setattr(fleet.hub.publisher, "change_channel", meanwhile)
    look(fleet, engine, 1)
    assert row_of(fleet, rollout).state == "aborted" and entry(fleet).rollout is None and spread_s(fleet) == 0


def test_a_rollout_that_expires_is_aborted_in_any_state(fleet: HubFixture) -> None:
    rollout, engine = create(fleet, expires_at=fleet.clock() + 1000, window="12:00-13:00"), RolloutEngine(fleet.hub)
    assert len(look(fleet, engine, 1)) == 1
    fleet.client.post(f"/api/v1/rollouts/{rollout}/pause", json={}, headers=fleet.auth())
    assert look(fleet, engine, 1000) == [] and row_of(fleet, rollout).state == "aborted"
    assert history(fleet, rollout)[-1] == "expired" and "it has expired" in show(fleet, rollout)["reason"]


def test_a_plan_says_when_a_rollout_begins_and_how_long_it_takes(fleet: HubFixture) -> None:
    found = post(fleet, "/plan", **NIGHTS, rate={"per_minute": 0.1}).json()["forecast"]
    table = found["timetable"]
    assert table["begins"].startswith("Mon ") and table["begins"].endswith("22:00 UTC")
    assert table["ends_at"] - table["stages"][0]["begins_at"] == found["seconds"]
    assert found["seconds"] == pytest.approx(1200, abs=700)


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"window": "22:00-22:00"}, 400, "can never open"),
    ({"window": "nights"}, 400, "cannot be read"),
    ({"window": "22:00-04:00", "time_zone": "Mars/Olympus"}, 400, "no time zone"),
    ({"rate": {"per_minute": 0}}, 400, "per_minute"),
    ({"rate": {"per_minute": 1e300}}, 400, "per_minute"),
    ({"rate": {"per_minute": 1, "after": 0}}, 400, "after"),
    ({"rate": {"per_minute": 1, "fctor": 2}}, 400, "fctor"),
    ({"start_at": 5.0}, 400, "is no time to come"),
    ({"start_at": 1e12}, 400, "start_at"),
    ({"expires_at": 5.0}, 400, "does not come within a year"),
    ({"expires_at": 3600, **NIGHTS}, 409, "its window opens first on Mon "),
    ({"expires_at": 3600, "rate": {"per_minute": 0.02}}, 409, "at the earliest, and expires on"),
]


def test_a_schedule_that_cannot_be_kept_is_refused_with_what_to_change(fleet: HubFixture) -> None:
    for schedule, status, words in REFUSED:
        if schedule.get("expires_at") == 3600:
            schedule = {**schedule, "expires_at": fleet.clock() + 3600}
        answer = post(fleet, **schedule)
        assert answer.status_code in (status, status + 22) and words in answer.text, answer.text
    assert live(fleet) == [] and entry(fleet).rollout is None
