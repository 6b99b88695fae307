"""Ill devices come first, each once, whatever the filter; why they are ill is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlmodel import select

from cloud_hub.devices.finding import Wanted, ending_certificates, find_devices, reasons
from cloud_hub.ingest.ingestor import Ingestor
from cloud_hub.ingest.slowing import TOO_MANY
from cloud_hub.store.senders import WORD
from cloud_hub.store.tables import Device, DeviceModel
from fleet.protocol.durations import HOUR_S
from fleet.protocol.messages import IN_USE_TWICE, AgentReport
from tests.support import large_fleet, shown_fleet
from tests.support.hub import HubFixture, make_hub
from tests.support.shown_fleet import MODEL, name_of
from tests.support.traffic import BUILD, Traffic, prepare

ILL = [3, 8, 13, 20, 21, 30, 33]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    hub = make_hub(tmp_path_factory.mktemp("finding"))
    shown_fleet.lay(hub)
    return hub


def pages(fleet: HubFixture, wanted: Wanted, limit: int) -> list[str]:
    found, after = list[str](), ""
    while True:
        page = find_devices(fleet.hub, wanted, after, limit)
        found += [device.id for device in page.items]
        if not page.next:
            assert page.count == len(found)
            return found
        after = page.next


@pytest.mark.parametrize("limit", [1, 6, 7, 8, 59, 60, 100])
def test_every_device_comes_once_and_the_ill_ones_first(fleet: HubFixture, limit: int) -> None:
    found = pages(fleet, Wanted(), limit)
    assert found == [name_of(n) for n in ILL] + [name_of(n) for n in range(60) if n not in ILL]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Wanted(state="ill"), ILL),
        (Wanted(state="offline"), [5, 22, 39, 56]),
        (Wanted(reason="selftest-failed"), [3, 8]),
        (Wanted(reason="selftest-failed", model=MODEL), [3, 8]),
        (Wanted(reason="selftest-failed", model="speech-intents"), []),
        (Wanted(reason="clock-untrusted"), [20, 21]),
        (Wanted(reason="certificate-ends"), [33]),
        (Wanted(reason="messages-set-aside"), [30]),
        (Wanted(reason="in-use-twice"), []),
        (Wanted(channel="beta", label="site=oslo"), [5, 20, 35, 50]),
        (Wanted(model=MODEL, release=3, text="LINE-001"), [10, 15]),
        (Wanted(release=3), list(range(0, 60, 5))),
        (Wanted(text="_"), []),
        (Wanted(text="%"), []),
    ],
)
def test_devices_are_found_by_what_they_are(fleet: HubFixture, wanted: Wanted, numbers: list[int]) -> None:
    assert sorted(pages(fleet, wanted, 3)) == [name_of(n) for n in numbers]


def test_why_devices_are_ill_is_counted_with_an_example_and_a_hint(fleet: HubFixture) -> None:
    with fleet.hub.reading() as session:
        told = {(one.reason, one.model): one for one in reasons(session, fleet.clock())}
        assert ending_certificates(session, fleet.clock() + 30 * 86_400, 5)[0] == 1
    assert {key: one.devices for key, one in told.items()} == {
        ("clock-untrusted", ""): 2,
        ("selftest-failed", MODEL): 2,
        ("disk-full", MODEL): 1,
        ("certificate-ends", ""): 1,
        ("messages-set-aside", ""): 1,
    }
    assert told["selftest-failed", MODEL].example == name_of(3) and all(one.hint for one in told.values())


def test_a_revoked_device_is_not_ill(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    shown_fleet.lay(hub)
    with hub.hub.session() as session:
        for row in session.exec(select(Device)).all():
            row.revoked_at = 1.0
            session.add(row)
    with hub.hub.reading() as session:
        assert reasons(session, hub.clock()) == []
    assert pages(hub, Wanted(state="ill"), 5) == [] and len(pages(hub, Wanted(state="revoked"), 7)) == 60


def test_a_device_that_no_release_serves_is_ill(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    shown_fleet.lay(hub, 2)
    with hub.hub.session() as session:
        row = session.get_one(DeviceModel, (name_of(1), MODEL))
        row.active, row.state = None, "idle"
        session.add(row)
    assert pages(hub, Wanted(reason="no-release"), 5) == [name_of(1)]


def test_of_many_devices_that_were_flooding_once_those_of_now_are_found(hub_database: str, tmp_path: Path) -> None:
    hub = make_hub(tmp_path, database=hub_database)
    now = hub.clock()
    old, new = {"slowed_at": now - 2 * HOUR_S}, {"cloned_at": now - 60.0, "slowed_at": now - 2 * HOUR_S}
    lately = {298: new, 299: {"slowed_at": now - 60}}
    rows = ({**large_fleet.a_device(n, now), "sessions": lately.get(n, old)} for n in range(300))
    large_fleet.write(hub, Device, rows)
    with hub.hub.session() as session:  # the hub tells a device that it is in use twice, and the device reports it
        row = session.get_one(Device, large_fleet.name_of(298))
        row.problem = IN_USE_TWICE
        session.add(row)
    with hub.hub.reading() as session:
        told = {one.reason: (one.devices, one.example) for one in reasons(session, now)}
        assert len(told) == len(reasons(session, now))
    assert told == {IN_USE_TWICE: (1, large_fleet.name_of(298)), TOO_MANY: (1, large_fleet.name_of(299))}
    assert pages(hub, Wanted(state="ill"), 5) == [large_fleet.name_of(n) for n in (298, 299)]
    assert pages(hub, Wanted(reason=TOO_MANY), 5) == [large_fleet.name_of(299)]


def test_what_to_do_is_said_as_most_devices_say_it(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    shown_fleet.lay(hub)
    with hub.hub.session() as session:
        row = session.get_one(DeviceModel, (name_of(0), MODEL))
        row.reason, row.hint = "selftest-failed", "~ run what a stranger says"
        session.add(row)
    with hub.hub.reading() as session:
        (found,) = [one for one in reasons(session, hub.clock()) if one.reason == "selftest-failed"]
    assert (found.devices, found.hint) == (3, "look at the runtime's version")


def test_what_a_device_reports_becomes_its_problem_until_it_reports_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = make_hub(tmp_path)
    names = prepare(hub, 1)
    for place, problem in enumerate(("clock-untrusted", "", "x" * 900)):
        report = AgentReport(agent="1", channel="stable", problem=problem)
        monkeypatch.setitem(BUILD, "agent", lambda _rng, _seq, report=report: report)
        assert Ingestor(hub.hub).take(Traffic("agent", names, spool=f"s{place}").batch(1))
        with hub.hub.reading() as session:
            row = session.get_one(Device, names[0])
        assert row.problem == problem[:WORD] and row.info["problem"] == problem
