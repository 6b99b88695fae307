"""The shadow stage in the hub: what may start, what windows bring to it, and what follows."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import delete
from sqlmodel import col, select

from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store import hearing
from cloud_hub.store.tables import (
    Device,
    PairInput,
    PairShared,
    RolloutEvent,
    RolloutRow,
    Setting,
    ShadowEvidence,
    SpoolCursor,
    WindowRow,
)
from fleet.protocol import topics
from fleet.protocol.bounds import LARGEST
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Envelope, ShadowCounts
from fleet.protocol.task import TaskSpec
from fleet.protocol.telemetry import Window
from fleet.rollouts.machine import Progress
from tests.support.hub import HubFixture, make_hub
from tests.support.rollouts import DEVICES, begin_anew, cohort, entry, make_fleet

SHADOW = {"inputs": 100, "devices": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    """Three devices on release 1, of which the last one's agent cannot shadow."""
    hub = make_fleet(make_hub(tmp_path_factory.mktemp("hub")))
    with hub.hub.session() as session:
        for name in DEVICES[:2]:
            session.get(Device, name).info = {"capabilities": ["shadow", "task:custom"]}
        session.get(Device, DEVICES[2]).info = {"capabilities": ["task:custom"]}
    return hub


@pytest.fixture
def fleet(made: HubFixture) -> HubFixture:
    """The same hub, where nothing has happened yet."""
    begin_anew(made)
    with made.hub.session() as session:
        for table in (ShadowEvidence, PairInput, PairShared, WindowRow, SpoolCursor):
            session.connection().execute(delete(table))
    return made


def ask(fleet: HubFixture, path: str = "", **fields: object):
    wanted = {"model": "digits", "release": 2, "channel": "stable", "stages": [34, 100], "shadow": SHADOW, **fields}
    return fleet.client.post(f"/api/v1/rollouts{path}", json=wanted, headers=fleet.auth())


def start(fleet: HubFixture, **fields: object) -> str:
    made = ask(fleet, **fields)
    assert made.status_code == 201, made.text
    return made.json()["id"]


def say(fleet: HubFixture, device: str, rollout: str, first: int = 0, seq: int = 1, **counts: object) -> None:
    """A window of a device, with inputs numbered from `first`."""
    told = {"attempt": 1, "old": 1, "new": 2, "agree": 0, "differ": 0, **counts}
    keys = b"".join((first + n).to_bytes(8, "little") for n in range(told["agree"] + told["differ"]))
    shadow = ShadowCounts(**{"rollout": rollout, "keys": keys, **told})  # type: ignore[arg-type]
    window = Window(
        model="digits",
        release=1,
        variant="v",
        auditor=None,
        started_at=1.0,
        ended_at=61.0,
        counters={"requests": 600},
        shadow=shadow,
    )
    body = msgspec.Raw(encode_msgpack(window))
    envelope = Envelope(device=device, spool="s1", seq=seq, base=1, at=1.0, kind="window", body=body)
    Ingestor(fleet.hub).take([Message(topics.uplink(device, "telemetry"), encode_msgpack(envelope))])


def seen(fleet: HubFixture) -> dict[str, ShadowEvidence]:
    with fleet.hub.reading() as session:
        return {row.device_id: row for row in session.exec(select(ShadowEvidence))}


def state(fleet: HubFixture, rollout: str) -> dict:
    return fleet.client.get(f"/api/v1/rollouts/{rollout}", headers=fleet.auth()).json()


def test_it_passes_on_evidence_and_serves_nobody_before(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    assert entry(fleet).rollout.shadow is not None and cohort(fleet) == []
    engine.look()
    before = state(fleet, rollout)
    assert (before["stage"], before["shadow"]["judgement"]) == (0, "not-enough-evidence")
    for number, device in enumerate(DEVICES[:2]):
        say(fleet, device, rollout, first=1000 * number, agree=150, differ=1, dropped=40, old_us=500, new_us=1000)
    engine.look()
    after = state(fleet, rollout)
    assert (after["stage"], after["state"], after["shadow"]["judgement"]) == (1, "running", "healthy")
    assert (after["shadow"]["inputs"], after["shadow"]["dropped"], after["shadow"]["slower"]) == (302, 80, 2.0)
    assert entry(fleet).rollout.shadow is None and len(cohort(fleet)) == 1
    say(fleet, DEVICES[0], rollout, first=5000, seq=2, differ=500)  # late: it was under way when the stage ended
    assert seen(fleet)[DEVICES[0]].differ == 1
    with fleet.hub.reading() as session:
        assert [e.event for e in session.exec(select(RolloutEvent))] == ["started", "advanced"]
        assert all(row.body["shadow"]["keys"] == "" for row in session.exec(select(WindowRow)))


def test_a_release_that_answers_otherwise_is_halted_before_anybody_was_served(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    for number, device in enumerate(DEVICES[:2]):
        say(fleet, device, rollout, first=1000 * number, agree=80, differ=70)
    engine.look()
    assert state(fleet, rollout)["state"] == "halted" and entry(fleet).rollout is None
    with fleet.hub.reading() as session:
        assert session.exec(select(PairInput)).all() == []


def test_non_finite_answers_on_two_devices_halt(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    say(fleet, DEVICES[0], rollout, agree=150, differ=1, non_finite=1)
    engine.look()
    assert state(fleet, rollout)["state"] == "running"
    fleet.clock.advance(1)
    say(fleet, DEVICES[1], rollout, first=1000, agree=150, differ=1, non_finite=1)
    engine.look()
    found = state(fleet, rollout)
    assert found["state"] == "halted" and "non-finite on 2 devices" in found["reason"]


def test_an_input_counts_once_and_no_device_can_say_more_than_it_served(fleet: HubFixture) -> None:
    rollout = start(fleet)
    say(fleet, DEVICES[0], rollout, agree=3, differ=1)
    say(fleet, DEVICES[1], rollout, agree=2, differ=1, first=3)  # input 3, which differed, comes again
    say(fleet, DEVICES[0], rollout, agree=2, seq=2, repeats=5, crashed=1, reason="no-variant")
    say(fleet, DEVICES[0], rollout, agree=1, seq=3, first=50, reason="crash-loop", dropped=1 << 31, old_us=1 << 50)
    one, other = (seen(fleet)[device] for device in DEVICES[:2])
    assert (one.agree, one.differ, one.repeats, one.crashed, one.reason) == (4, 0, 7, 1, "no-variant")
    assert (other.agree, other.differ, other.repeats, other.disputed) == (1, 1, 1, 1), "input 3 agreed there"
    assert one.dropped <= 10_000 * 60 and one.old_us <= LARGEST


def test_a_device_that_speaks_first_of_every_input_does_not_hide_what_differs(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    say(fleet, DEVICES[0], rollout, agree=300)
    engine.look()
    assert state(fleet, rollout)["stage"] == 0, "alone it decides nothing"
    for device in DEVICES[1:]:
        fleet.clock.advance(1)
        say(fleet, device, rollout, agree=150, differ=150)
        engine.look()
        if device == DEVICES[1]:
            assert state(fleet, rollout)["shadow"]["disputed"] == 150
    found = state(fleet, rollout)
    assert (found["state"], found["shadow"]["contradicted"]) == ("halted", [DEVICES[0]])


def test_inputs_of_the_shadow_stage_count_anew_where_devices_are_served(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    for device in DEVICES[:2]:
        say(fleet, device, rollout, agree=200)
    engine.look()
    assert state(fleet, rollout)["stage"] == 1
    with fleet.hub.reading() as session:
        assert session.exec(select(PairInput)).all() == [] == session.exec(select(PairShared)).all()


def test_what_is_of_another_stage_counts_for_nothing(fleet: HubFixture) -> None:
    rollout = start(fleet)
    others = ({"attempt": 2}, {"old": 3}, {"new": 3}, {"rollout": "r-other"}, {"rollout": ""})
    for seq, about in enumerate(others, 1):
        say(fleet, DEVICES[0], **{"rollout": rollout, "agree": 10, "seq": seq, **about})
    assert seen(fleet) == {}


def test_a_window_that_cannot_be_right_is_set_aside(fleet: HubFixture) -> None:
    rollout = start(fleet)
    wrong = ({"agree": -1}, {"keys": b"123"}, {"agree": 3, "keys": b""}, {"reason": "x" * 400}, {"old_us": 1 << 60})
    for seq, counts in enumerate(wrong, 1):
        say(fleet, DEVICES[0], rollout, seq=seq, **{"keys": b"", **counts})
    assert seen(fleet) == {}
    say(fleet, DEVICES[0], rollout, agree=1, seq=len(wrong) + 1)  # and its spool goes on
    assert seen(fleet)[DEVICES[0]].agree == 1


def test_the_plan_says_who_cannot_shadow_and_what_it_takes(fleet: HubFixture) -> None:
    found = ask(fleet, "/plan").json()["forecast"]
    assert (found["shadow"]["devices"], found["shadow"]["unable"], found["shadow"]["inputs"]) == (2, 1, 100)
    assert found["notes"][0] == "1 of 3 devices cannot shadow (agents without it, such as d-2): no evidence"
    assert ask(fleet, "/plan", shadow=None).json()["forecast"]["shadow"] is None


def test_a_stage_that_could_never_end_is_refused(fleet: HubFixture) -> None:
    few = ask(fleet, shadow={"devices": 3})
    assert few.status_code == 409 and "2 devices can shadow, and 3 have to" in few.json()["error"]
    for much, words in (({"inputs": 4001}, "takes 4001 distinct inputs"), ({"agreement": 1 - 1e-16}, "takes 8")):
        endless = ask(fleet, shadow=much)
        assert endless.status_code == 409 and words in endless.json()["error"]
        assert "2 devices bring at most 4000" in endless.json()["error"]
    assert ask(fleet, "/plan", guard={"alpha": 1e-13}).status_code == 400
    wrong = ask(fleet, shadow={"agreement": 1.0})
    assert wrong.status_code == 400 and "agreement" in wrong.json()["error"]
    assert ask(fleet, shadow={"agreemant": 0.9}).status_code == 400
    fleet.model("odd")
    for seed in range(2):
        fleet.release("odd", seed=seed, labels=(), task=TaskSpec(name="custom"), requires=("task:custom",))
    fleet.client.put(
        "/api/v1/channels/stable/models/odd", json={"release": 1, "audit": {"auditor": 1}}, headers=fleet.auth()
    )
    custom = ask(fleet, model="odd")
    assert custom.status_code == 409 and "compares no answers" in custom.json()["error"]


def test_orders_at_the_shadow_stage(fleet: HubFixture) -> None:
    rollout = start(fleet)

    def order(name: str, **body: object):
        return fleet.client.post(f"/api/v1/rollouts/{rollout}/{name}", json=body, headers=fleet.auth())

    assert order("retry", reason="agents were updated").json()["attempt"] == 2
    assert (entry(fleet).rollout.attempt, entry(fleet).rollout.share_ppm) == (2, 0)
    assert order("promote", reason="seen by hand", stage=1).status_code == 409
    assert order("promote", reason="seen by hand", stage=0).json()["stage"] == 1
    assert entry(fleet).rollout.shadow is None and len(cohort(fleet)) == 1


def test_a_hub_that_knows_no_shadow_stage_cannot_read_it_and_serves_nobody(fleet: HubFixture) -> None:
    rollout = start(fleet)
    with fleet.hub.reading() as session:
        stored = session.get(RolloutRow, rollout)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(stored.progress, Progress)  # as any hub read it before there was this stage


def test_with_a_schedule_the_plan_counts_the_stage_and_nobody_serves_before_the_window(fleet: HubFixture) -> None:
    day = 86_400 * (1 + fleet.clock() // 86_400)
    fleet.clock.now = day + 43_200.0  # noon
    shadow, schedule = {**SHADOW, "seconds": 3600.0}, {"window": "22:00-04:00"}
    table = ask(fleet, "/plan", shadow=shadow, schedule=schedule).json()["forecast"]["timetable"]
    assert table["stages"][0]["begins_at"] == day + 22 * 3600
    late = ask(fleet, "/plan", shadow={**SHADOW, "seconds": 14 * 3600.0}, schedule=schedule).json()["forecast"]
    assert late["timetable"]["stages"][0]["begins_at"] == day + 26 * 3600, "the stage ends in the middle of the night"
    rollout, engine = start(fleet, schedule=schedule), RolloutEngine(fleet.hub)
    for number, device in enumerate(DEVICES[:2]):
        say(fleet, device, rollout, first=1000 * number, agree=150)
    engine.look()
    assert state(fleet, rollout)["stage"] == 1 and "waits for its window" in state(fleet, rollout)["waits"]
    assert cohort(fleet) == []
    fleet.clock.now = day + 22 * 3600.0
    engine.look()
    assert len(cohort(fleet)) == 1


def test_a_large_fleet_is_judged_less_often(fleet: HubFixture, monkeypatch) -> None:
    from cloud_hub.rollouts import facts

    monkeypatch.setattr(facts, "SHADOWS_PER_S", 0.1)  # two devices: every 20 seconds
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    for number, device in enumerate(DEVICES[:2]):
        say(fleet, device, rollout, first=1000 * number, agree=30)
    engine.look()
    for number, device in enumerate(DEVICES[:2]):
        say(fleet, device, rollout, first=100 + 1000 * number, seq=2, agree=150)
    engine.look()
    assert state(fleet, rollout)["stage"] == 0
    fleet.clock.advance(21)
    engine.look()
    assert state(fleet, rollout)["stage"] == 1


def test_the_dashboard_shows_the_stage(fleet: HubFixture) -> None:
    rollout, engine = start(fleet), RolloutEngine(fleet.hub)
    say(fleet, DEVICES[0], rollout, agree=40)
    engine.look()
    fleet.client.post("/login", data={"token": fleet.admin_token})
    page = fleet.client.get(f"/rollouts/{rollout}").text
    assert '<li class="now">shadow<' in page and "40 on 1 devices" in page
    assert "1 device compared inputs, 2 must" in page
    with fleet.hub.reading() as session:
        assert session.get(RolloutRow, rollout).progress["shadowing"] is True


def test_an_outage_of_the_hub_counts_for_nobodys_silence(fleet: HubFixture) -> None:
    rollout = start(fleet, guard={"on_no_evidence": "halt", "evidence_deadline_s": 600.0})
    with fleet.hub.session() as session:
        hearing.note(session, fleet.clock())
    fleet.clock.advance(7200)
    with fleet.hub.session() as session:
        hearing.note(session, fleet.clock())
    engine = RolloutEngine(fleet.hub)
    engine.look()
    assert state(fleet, rollout)["state"] == "running"
    with fleet.hub.session() as session:
        session.connection().execute(delete(Setting).where(col(Setting.key).startswith(hearing.KEY)))
    fleet.clock.advance(601)
    engine.look()
    assert state(fleet, rollout)["state"] == "halted"
