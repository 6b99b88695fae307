"""A channel's usual schedule: rollouts that say nothing themselves take it, those of a retrain among them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select

from cloud_hub.rollouts.create import Proposal, look_ahead
from cloud_hub.store.tables import AuditEntry
from fleet.api.rollouts import RolloutOptions
from tests.support.hub import HubFixture
from tests.support.rollouts import make_fleet

GUARD = {"evidence": "install"}
WANTED = {"model": "digits", "release": 2, "channel": "stable", "stages": [34, 100], "guard": GUARD}
NIGHTS = {"window": "Mon-Fri 22:00-04:00", "time_zone": "Europe/Berlin", "rate": {"per_minute": 10.0}}


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    return make_fleet(hub)


def change(fleet: HubFixture, **schedule: Any) -> Any:
    return fleet.client.patch("/api/v1/channels/stable", json={"schedule": schedule}, headers=fleet.auth())


def plan(fleet: HubFixture, **more: Any) -> Any:
    return fleet.client.post("/api/v1/rollouts/plan", json={**WANTED, **more}, headers=fleet.auth()).json()["forecast"]


def channel(fleet: HubFixture) -> Any:
    return fleet.client.get("/api/v1/channels/stable", headers=fleet.auth()).json()


def test_a_rollout_that_says_nothing_takes_it_and_so_does_one_that_a_retrain_starts(fleet: HubFixture) -> None:
    assert plan(fleet)["timetable"] is None
    before = channel(fleet)["version"]
    assert change(fleet, **NIGHTS).json()["version"] == before, "devices need not look at what is none of theirs"
    assert channel(fleet)["schedule"]["window"] == NIGHTS["window"]
    ahead = plan(fleet)
    assert "22:00 Europe/Berlin" in ahead["timetable"]["begins"]
    words = "the channel's usual schedule holds (Mon-Fri 22:00-04:00 Europe/Berlin, 10 devices per minute)"
    assert ahead["notes"][0] == words + "; --no-usual takes none of it"

    options = RolloutOptions(guard=GUARD)  # as a retrain has them
    found = look_ahead(fleet.hub, Proposal(model="digits", release=2, channel="stable", **options.model_dump()))
    assert found.schedule is not None and found.schedule.window == NIGHTS["window"]

    made = fleet.client.post("/api/v1/rollouts", json=WANTED, headers=fleet.auth()).json()
    assert made["plan"]["schedule"]["rate"]["per_minute"] == 10.0 and words in made["notes"][0]
    change(fleet, window="", rate=None)
    shown = fleet.client.get(f"/api/v1/rollouts/{made['id']}", headers=fleet.auth()).json()
    assert shown["plan"]["schedule"]["window"] == NIGHTS["window"], "what has begun keeps what it was planned with"


def test_what_a_rollout_says_itself_counts_and_it_may_take_nothing_of_it(fleet: HubFixture) -> None:
    change(fleet, **NIGHTS)
    other = plan(fleet, schedule={"window": "10:00-12:00", "time_zone": "UTC"})
    assert "10:00 UTC" in other["timetable"]["begins"]
    assert other["notes"][0].startswith("the channel's usual schedule holds (10 devices per minute)")
    assert "usual" not in plan(fleet, schedule={"window": "Sat", "rate": {"per_minute": 1.0}})["notes"][0]
    assert plan(fleet, schedule={"usual": False})["timetable"] is None
    assert "usual" in plan(fleet, schedule={"start_at": fleet.clock() + 60.0})["notes"][0]


def test_what_is_left_out_stays_and_what_nothing_can_follow_is_refused_and_changes_nothing(fleet: HubFixture) -> None:
    change(fleet, **NIGHTS)
    change(fleet, rate={"per_minute": 5.0})
    kept = channel(fleet)["schedule"]
    assert (kept["window"], kept["rate"]["per_minute"]) == (NIGHTS["window"], 5.0)
    for wrong in ({"window": "at night"}, {"time_zone": "Mars/Base"}, {"rate": {"per_minute": 0.0}}, {"hours": "any"}):
        assert change(fleet, **wrong).status_code in (400, 422), wrong
    assert channel(fleet)["schedule"] == kept
    missing = fleet.client.patch("/api/v1/channels/none", json={"schedule": NIGHTS}, headers=fleet.auth())
    assert missing.status_code == 404 and "no channel 'none'" in missing.json()["error"]
    both = {"schedule": {"window": ""}, "telemetry": {"window_s": 30}}
    fleet.client.patch("/api/v1/channels/stable", json=both, headers=fleet.auth())
    after = channel(fleet)
    assert (after["schedule"]["window"], after["document"]["telemetry"]["window_s"]) == ("", 30)
    with fleet.hub.reading() as session:
        said = [row.detail["usual"] for row in session.exec(select(AuditEntry)) if row.action == "channel.schedule"]
    assert said[-1] == "5 devices per minute" and len(said) == 3
