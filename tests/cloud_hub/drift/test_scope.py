"""Several releases of a model in use at once: each is watched by itself, and what nobody serves is not well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.drift import budget, scope, silence, truth
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.monitors import states_of
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.streams import Settings
from cloud_hub.drift.watch import SeenWindow, Watch, WatchFacts
from cloud_hub.store.tables import Device, DeviceModel, DriftMonitor, InputMonitor, MeaningMonitor, Model, WindowRow
from fleet.protocol.channel import ModelEntry
from tests.cloud_hub.drift.test_engine import add_windows, alarms, monitor, promote, publish, serve, streams, watched
from tests.support.hub import HubFixture

__all__ = ["watched"]
SETTINGS = Settings(period_s=3600.0, first=3, budget_days=2000.0, weights=np.ones(4))


@pytest.fixture
def two(watched: HubFixture) -> HubFixture:
    """Release 1 is `stable`'s default, on d-0 and d-1, and release 2 `beta`'s, on d-2."""
    second = publish(watched, "", seed=3)

    def change(channel):
        return replace(channel, models={"digits": ModelEntry(release=second)})

    watched.hub.publisher.change_channel("beta", change, actor="test")
    serve(watched, 2, "d-2")
    return watched


def both(fixture: HubFixture, count: int, *, moved: int = 0, seed: int = 0) -> None:
    """`count` windows of each release from all three devices in turn, those of the release `moved` elsewhere."""
    for release in (1, 2):
        add_windows(fixture, count, shifted=release == moved, release=release, seed=seed)


def shown(fixture: HubFixture) -> dict[int, dict]:
    items = fixture.client.get("/api/v1/drift?model=digits", headers=fixture.auth()).json()["items"]
    return {item["release"]: item for item in items}


def test_each_default_has_baselines_and_alarms_of_its_own(two: HubFixture) -> None:
    engine = DriftEngine(two.hub)
    both(two, 120)
    engine.step()
    assert [monitor(two, release).state for release in (1, 2)] == ["watching", "watching"]
    both(two, 40, moved=1, seed=1)
    engine.step()
    (alarm,) = alarms(two)
    assert alarm.release == 1 and alarm.detail["devices"] == ["d-0", "d-1", "d-2"]
    assert [shown(two)[release]["state"] for release in (1, 2)] == ["alarmed", "watching"]
    assert list(shown(two)) == [2, 1] and [shown(two)[n]["devices"] for n in (1, 2)] == [2, 1]
    both(two, 40, moved=2, seed=2)
    engine.step()
    assert [alarm.release for alarm in alarms(two)] == [1, 2]
    assert {stream.alarm for stream in streams(two).values()} == {alarms(two)[0].id}


def test_an_operator_begins_one_release_anew_and_closes_the_alarm_of_another(two: HubFixture) -> None:
    engine, headers = DriftEngine(two.hub), two.auth()
    both(two, 120)
    both(two, 40, moved=1, seed=1)
    engine.step()
    path = "/api/v1/drift/digits/rebaseline"
    assert two.client.post(path, json={"release": 2}, headers=headers).json()["releases"] == [2]
    assert streams(two, release=2) == {} and len(streams(two)) == 3 and alarms(two)[0].status == "open"
    assert two.client.post(path, json={"release": 7}, headers=headers).status_code == 404
    answer = two.client.get("/api/v1/drift/digits/streams", headers=headers).json()["items"]
    assert {item["release"] for item in answer} == {1}
    assert two.client.post(f"/api/v1/alarms/{alarms(two)[0].id}/close", headers=headers).status_code == 200
    assert {stream.alarm for stream in streams(two).values()} == {0} and shown(two)[1]["state"] == "watching"


def test_answers_and_data_of_a_release_that_is_not_the_newest_are_watched(two: HubFixture) -> None:
    def audits(count: int, agree: int) -> None:
        with two.hub.session() as session:
            for number in range(count):
                two.clock.advance(60)
                session.add(
                    WindowRow(
                        device_id=f"d-{number % 2}",
                        spool=f"a{agree}",
                        seq=number + 1,
                        model="digits",
                        release=1,
                        started_at=two.clock() - 60,
                        ended_at=two.clock(),
                        sketch_count=0,
                        body={"counters": {"requests": 20, "audited": 20, "audit_agree": agree}},
                    )
                )

    engine = DriftEngine(two.hub)
    audits(400, 19)
    engine.step()
    audits(200, 9)
    engine.step()
    (alarm,) = alarms(two)
    assert alarm.release == 1 and alarm.detail["kind"] == "meaning" and shown(two)[1]["audits"]["state"] == "alarmed"
    assert shown(two)[2]["audits"]["counted"] == 0
    assert shown(two)[1]["quality"].startswith("not watched: none of 600 windows")


def test_a_release_that_is_still_served_is_watched_until_nobody_serves_it(watched: HubFixture) -> None:
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    promote(watched, publish(watched, "", seed=3))
    serve(watched, 2, "d-0", "d-1")
    add_windows(watched, 60, shifted=True, only="d-2", seed=1)
    engine.step()
    (alarm,) = alarms(watched)
    assert alarm.release == 1 and alarm.status == "open" and not shown(watched)[1]["default"]
    serve(watched, 2)
    watched.clock.advance(scope.LOOKED_S)
    engine.step()
    assert alarms(watched)[0].status == "open" and shown(watched)[1]["devices"] == 0, "one look without it is no end"
    watched.clock.advance(scope.PATIENCE_S)
    engine.step()
    said = shown(watched)[1]
    assert said["state"] == "ended" and "no device" in said["unwatched"] and said["streams"] == {}
    assert alarms(watched)[0].status == "closed" and "not watched any more" in alarms(watched)[0].detail["closed"]
    metrics = watched.client.get("/metrics", headers=watched.auth()).text
    assert 'edgeloop_hub_drift_monitors{model="digits",release="1",state="ended"} 1.0' in metrics
    assert 'edgeloop_hub_drift_monitors{model="digits",release="2",state="silent"} 1.0' in metrics
    with watched.hub.reading() as session:  # compaction waits for no monitor that has ended
        for kind in (DriftMonitor, InputMonitor, MeaningMonitor):
            assert [row.release for row in session.exec(select(kind))] == [2]


def test_what_a_release_showed_before_it_became_a_default_is_no_part_of_its_baseline(watched: HubFixture) -> None:
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    publish(watched, "", seed=3)
    engine.step()
    serve(watched, 2, "d-2")  # as in a rollout's first stage
    watched.clock.advance(scope.LOOKED_S)
    engine.step()
    add_windows(watched, 120, shifted=False, release=2)
    engine.step()
    assert monitor(watched, 2).state == "watching"
    promote(watched, 2)
    engine.step()
    assert monitor(watched, 2).state == "waiting" and streams(watched, release=2) == {}
    assert monitor(watched, 1).state == "watching"  # on d-0 and d-1 still
    add_windows(watched, 120, shifted=True, release=2)
    engine.step()
    assert monitor(watched, 2).state == "watching" and alarms(watched) == []


def test_a_device_that_comes_back_to_a_release_finds_its_baseline(two: HubFixture) -> None:
    engine = DriftEngine(two.hub)
    add_windows(two, 120, shifted=False)
    engine.step()
    add_windows(two, 30, shifted=False, release=2)
    engine.step()
    add_windows(two, 60, shifted=True, only="d-1", seed=1)
    engine.step()
    (alarm,) = alarms(two)
    assert alarm.detail["devices"] == ["d-1"] and not alarm.detail["provisional"]


def test_what_a_device_left_is_forgotten_after_a_while(two: HubFixture) -> None:
    engine = DriftEngine(two.hub)
    both(two, 30)
    engine.step()
    two.clock.advance(scope.LEFT_S + 1)
    engine.step()
    assert set(streams(two)) == {"d-0", "d-1"} and set(streams(two, release=2)) == {"d-2"}


def test_devices_make_up_no_release_and_more_than_are_watched_are_named(
    two: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = publish(two, "", seed=4)
    serve(two, third, "d-0")
    serve(two, 99, "d-1")
    monkeypatch.setattr(scope, "MOST", 2)
    DriftEngine(two.hub).step()
    found = shown(two)
    assert {number: item["state"] for number, item in found.items()} == {1: "waiting", 2: "waiting", third: "left out"}
    assert "other releases" in found[third]["unwatched"]


def test_who_was_not_heard_of_for_a_month_serves_nothing(watched: HubFixture) -> None:
    promote(watched, publish(watched, "", seed=3))
    with watched.hub.session() as session:
        for device in session.exec(select(Device)):
            device.last_seen_at = watched.clock() - (scope.QUIET_S if device.id != "d-0" else 0.0)
    engine = DriftEngine(watched.hub)
    engine.step()
    assert shown(watched)[1]["devices"] == 1
    for seconds in (scope.QUIET_S, scope.PATIENCE_S):
        watched.clock.advance(seconds)
        engine.step()
    assert shown(watched)[1]["state"] == "ended" and set(shown(watched)) == {1, 2}


def test_one_budget_is_shared_by_all_releases() -> None:
    """Weights of all that is watched sum to one at most, so that their mixture keeps the budget of one."""
    watches = {
        release: Watch(
            SETTINGS,
            {},
            {f"d-{n}": ["g"] for n in range(4)},
            WatchFacts(devices=8, groups=2, releases=2, release=release, slot_s=60.0, now=0.0),
        )
        for release in (1, 2)
    }
    for release, watch in watches.items():
        for at in range(20):
            row = np.random.default_rng(at).normal(size=4)
            watch.count(
                [SeenWindow(device=f"d-{n}", release=release, at=60.0 * at, count=9, row=row) for n in range(4)]
            )
    found = [stream for watch in watches.values() for stream in watch.streams.values()]
    assert len(found) == 2 * (4 + 1 + 1)
    assert sum(stream.share for stream in found) == pytest.approx(1.0)
    assert budget.INPUTS + budget.ANSWERS + budget.DATA == 1.0
    policy, tracks = DriftPolicy(), truth.Watched()
    each = truth.budget_of(tracks, policy, 3)
    assert 3 * len(truth.tracks_of(tracks)) * policy.budget_days / each == pytest.approx(budget.ANSWERS)


def test_who_serves_what_is_read_once_in_a_while(two: HubFixture) -> None:
    """It costs by the fleet, and a look comes every few seconds."""
    engine = DriftEngine(two.hub)
    engine.step()
    serve(two, 2)
    two.clock.advance(scope.LOOKED_S / 2)
    engine.step()
    assert shown(two)[1]["devices"] == 2
    two.clock.advance(scope.LOOKED_S / 2)
    engine.step()
    assert shown(two)[1]["devices"] == 0
    with two.hub.reading() as session:
        assert len(session.exec(select(DeviceModel)).all()) == 3


def test_more_defaults_than_are_watched_are_not_looked_up_at_every_look(
    two: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "MOST", 1)
    first = scope.look(two.hub, "digits", {1, 2})
    assert [one.release for one in first.watched] == [2] and first.left_out == (1,)
    two.clock.advance(1)
    assert scope.look(two.hub, "digits", {1, 2}) == first
    two.clock.advance(1)
    assert scope.look(two.hub, "digits", {2}).at == two.clock()


def test_what_came_late_from_a_first_stage_is_no_part_of_the_baseline(watched: HubFixture) -> None:
    engine = DriftEngine(watched.hub)
    publish(watched, "", seed=3)
    engine.step()
    serve(watched, 2, "d-2")
    watched.clock.advance(scope.LOOKED_S)
    engine.step()
    kept_from = watched.clock()
    watched.clock.advance(86_400)
    promote(watched, 2)
    engine.step()
    later = watched.clock()
    watched.clock.advance(kept_from - later)  # what a device recorded then comes now
    add_windows(watched, 60, shifted=True, release=2)
    watched.clock.advance(later - watched.clock())
    engine.step()
    assert streams(watched, release=2) == {}
    add_windows(watched, 120, shifted=False, release=2, seed=1)
    engine.step()
    assert {stream.windows for stream in streams(watched, release=2).values()} == {40} and alarms(watched) == []


def test_an_older_hub_beside_this_one_begins_nothing_anew(watched: HubFixture) -> None:
    """It writes the release's number as the epoch, as long as it has the lease."""
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    add_windows(watched, 60, shifted=True, seed=1)
    engine.step()
    with watched.hub.session() as session:
        row = session.get_one(DriftMonitor, ("digits", 1))
        row.document = {**row.document, "epoch": 1}
    engine.step()
    assert [alarm.status for alarm in alarms(watched)] == ["open"] and monitor(watched).state == "alarmed"
    assert monitor(watched).document["epoch"] == 0.0


def test_a_release_in_use_is_shown_before_anything_was_counted_of_it(watched: HubFixture) -> None:
    scope.look(watched.hub, "digits", {1})
    assert shown(watched)[1]["default"] and shown(watched)[1]["devices"] == 3


def test_a_monitor_that_gathers_its_first_windows_is_beyond_them_and_counts_them_when_they_are_enough(
    two: HubFixture,
) -> None:
    """It reads each window once, and keeps nobody else's; what is gone meanwhile it does without."""
    engine = DriftEngine(two.hub)
    add_windows(two, 4, shifted=False, release=2)
    add_windows(two, 20, shifted=False, seed=1)
    engine.step()
    assert monitor(two, 2).state == "waiting" and monitor(two, 2).last_window == 24
    assert monitor(two, 2).document["awaited"] == [1, 2, 3, 4]
    with two.hub.session() as session:
        session.delete(session.get_one(WindowRow, 1))
    add_windows(two, 5, shifted=False, release=2, seed=2)
    engine.step()
    assert monitor(two, 2).state == "waiting" and monitor(two, 2).document["awaited"] == [2, 3, 4, *range(25, 30)]
    add_windows(two, 1, shifted=False, release=2, seed=3)
    engine.step()
    assert monitor(two, 2).state == "baseline" and monitor(two, 2).document["awaited"] == []
    assert sum(stream.windows for stream in streams(two, release=2).values()) == 9


def test_a_release_that_one_report_leaves_out_goes_on_where_it_was(two: HubFixture) -> None:
    """As of a device that rolls back for an hour: its alarm stays open, and its baseline what it was."""
    engine = DriftEngine(two.hub)
    add_windows(two, 120, shifted=False)
    third = publish(two, "", seed=4)
    serve(two, third, "d-0")
    two.clock.advance(scope.LOOKED_S)
    engine.step()
    add_windows(two, 30, shifted=False, release=third)
    engine.step()
    before = streams(two, release=third)
    serve(two, 1, "d-0")
    two.clock.advance(scope.LOOKED_S)
    engine.step()
    with two.hub.reading() as session:
        (state,) = [one for one in states_of(session, two.clock()) if one.release == third]
    assert "no device serves it since 20" in state.words and state.state == "baseline"
    serve(two, third, "d-0")
    two.clock.advance(scope.PATIENCE_S - scope.LOOKED_S)
    engine.step()
    assert streams(two, release=third).keys() == before.keys() and shown(two)[third]["devices"] == 1
    serve(two, 1, "d-0")
    two.clock.advance(scope.LOOKED_S)
    engine.step()
    assert shown(two)[third]["state"] != "ended", "its patience counts from the last time that it was served"
    two.clock.advance(scope.PATIENCE_S)
    engine.step()
    assert shown(two)[third]["state"] == "ended"


def test_a_monitor_that_hears_nothing_is_silent_and_says_since_when(watched: HubFixture) -> None:
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    engine.step()
    heard = watched.clock()
    watched.clock.advance(1_700)  # within the baseline's period of half an hour
    engine.step()
    assert shown(watched)[1]["state"] == "watching" and shown(watched)[1]["silent_since"] is None
    watched.clock.advance(200)
    engine.step()
    assert shown(watched)[1]["state"] == "silent" and shown(watched)[1]["silent_since"] == heard
    metrics = watched.client.get("/metrics", headers=watched.auth()).text
    assert 'edgeloop_hub_drift_monitors{model="digits",release="1",state="silent"} 1.0' in metrics
    with watched.hub.reading() as session:
        (state,) = states_of(session, watched.clock())
    assert state.state == "silent" and "nothing heard since 20" in state.words
    with watched.hub.session() as session:
        session.get_one(Device, "d-0").revoked_at = watched.clock()
    add_windows(watched, 1, shifted=False, seed=1)
    engine.step()
    assert shown(watched)[1]["state"] == "silent", "what a revoked device sends is nothing heard"
    add_windows(watched, 2, shifted=False, seed=2)
    engine.step()
    assert shown(watched)[1]["state"] == "watching"


def test_an_alarm_is_not_hidden_by_silence_and_the_policy_may_say_how_long_is_silence(watched: HubFixture) -> None:
    engine = DriftEngine(watched.hub)
    add_windows(watched, 120, shifted=False)
    add_windows(watched, 40, shifted=True, seed=1)
    engine.step()
    heard = watched.clock()
    watched.clock.advance(86_400)
    engine.step()
    assert shown(watched)[1]["state"] == "alarmed" and shown(watched)[1]["silent_since"] == heard
    with watched.hub.session() as session:
        owner = session.get_one(Model, "digits")
        owner.policy = {"drift": {**owner.policy["drift"], "silent_after": "2d"}}
    assert shown(watched)[1]["silent_since"] is None


@given(heard=st.floats(0, 2e9), slot_s=st.floats(0.1, 86_400), past=st.floats(0, 1e8))
@settings(deadline=None)
def test_nothing_is_silent_before_ten_of_its_own_windows_would_have_come(heard, slot_s, past) -> None:
    policy = DriftPolicy()
    quiet = silence.since({silence.HEARD: heard, "slot_s": slot_s}, policy, heard + past)
    least = silence.after_s(policy, slot_s)
    assert least >= max(86_400, 10 * slot_s)
    assert quiet == (heard if past > least + 1 else None) or least - 1 <= past <= least + 1
