"""Regular work on a large fleet reads what it shows or what changed, whatever the fleet's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from cloud_hub.devices.status import list_devices
from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.tables import Device, DeviceModel, MeasuredRow, PairEvidence, RolloutRow, WindowRow
from tests.support import large_fleet
from tests.support.hub import HubFixture, make_hub

PAGES = (
    "/api/v1/devices?limit=50",
    "/api/v1/devices?limit=50&channel=stable",
    "/api/v1/devices?limit=5&label=site%3Ds7",
    "/api/v1/rollouts",
    "/api/v1/jobs",
    "/api/v1/audit",
    "/",
    "/devices",
    f"/devices/{large_fleet.name_of(0)}",
    "/models",
    "/models/digits",
    "/rollouts",
    "/events",
    "/drift",
    "/drift/plots.json",
    "/metrics",
)
SMALL, LARGE = 210, 420  # the dashboard shows 50 devices, and of windows the last 400


@contextmanager
def loaded() -> Iterator[Counter[str]]:
    """Count the rows of each table that become objects within the block."""
    found: Counter[str] = Counter()
    tables = (Device, DeviceModel, MeasuredRow, PairEvidence, WindowRow)

    def load(instance: Any, _context: Any) -> None:
        found[type(instance).__name__] += 1

    for table in tables:
        event.listen(table, "load", load)
    try:
        yield found
    finally:
        for table in tables:
            event.remove(table, "load", load)


def cost(hub: HubFixture, work: Callable[[], object]) -> tuple[int, Counter[str]]:
    """Statements, and rows that become objects."""
    with large_fleet.statements(hub.hub.engine) as sent, loaded() as rows:
        work()
    return len(sent), rows


def page(hub: HubFixture, path: str) -> Callable[[], None]:
    def ask() -> None:
        answer = hub.client.get(path, headers=hub.auth())
        assert answer.status_code == 200, answer.text[:300]

    return ask


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    large_fleet.releases(hub)
    large_fleet.devices(hub, SMALL)
    hub.client.post("/login", data={"token": hub.admin_token})
    return hub


def test_no_list_and_no_page_reads_more_of_a_larger_fleet(fleet: HubFixture) -> None:
    for path in PAGES:
        page(fleet, path)()  # what is read once in a process
    small = {path: cost(fleet, page(fleet, path)) for path in PAGES}
    large_fleet.devices(fleet, LARGE - SMALL, first=SMALL)
    assert {path: cost(fleet, page(fleet, path)) for path in PAGES} == small
    assert small["/api/v1/devices?limit=50"][0] <= 6


def test_a_step_reads_what_changed(fleet: HubFixture) -> None:
    large_fleet.devices(fleet, LARGE - SMALL, first=SMALL)
    row = create_rollout(
        fleet.hub,
        model=large_fleet.MODEL,
        release=2,
        channel=large_fleet.CHANNEL,
        stages=[50, 100],
        actor="test",
        guard={"min_pairs": 10**9},
    )
    large_fleet.evidence(fleet, row.id, LARGE)
    engine = RolloutEngine(fleet.hub)
    engine.step()
    statements, rows = cost(fleet, engine.step)
    assert statements <= 30 and not rows
    with fleet.hub.reading() as session:
        verdict = session.get_one(RolloutRow, row.id).progress["verdict"]
    assert verdict["paired"]["devices"] > LARGE // 3


def test_who_is_online_is_counted_over_the_whole_fleet(fleet: HubFixture) -> None:
    with fleet.hub.session() as session:
        gone, revoked = (
            session.get_one(Device, large_fleet.name_of(205)),
            session.get_one(Device, large_fleet.name_of(3)),
        )
        gone.online, revoked.revoked_at = False, 1.0
    shown = fleet.client.get("/").text
    assert f"{SMALL - 2} of {SMALL}" in shown
    told = fleet.client.get("/metrics", headers=fleet.auth()).text
    for state, count in (("online", SMALL - 2), ("offline", 1), ("revoked", 1)):
        assert f'edgeloop_hub_devices{{state="{state}"}} {count}.0' in told


WORDS = ("a", "b", 'a"', '"a":"b"', 'x","a":"b', "\\", '\\"', "ä", "A", "%", "_", "a:b", ",", "")


def test_labels_are_compared_as_they_are(tmp_path: Path, hub_database: str) -> None:
    hub = make_hub(tmp_path, database=hub_database)
    pairs = [(key, value) for key, value in product(WORDS, WORDS) if key and "=" not in key]
    labels = {f"d-{number:03d}": {key: value, "z": WORDS[number % 3]} for number, (key, value) in enumerate(pairs)}
    rows = ({**large_fleet.a_device(0, hub.clock()), "id": name, "labels": labels[name]} for name in labels)
    large_fleet.write(hub, Device, rows)
    for key, value in pairs[::3]:
        found = list_devices(hub.hub, labels={key: value, "z": "a"}, channel="", after="", limit=1000).items
        wanted = [name for name, held in labels.items() if held.get(key) == value and held["z"] == "a"]
        assert [device.id for device in found] == wanted, (key, value)
    hub.hub.engine.dispose()


def test_pages_of_a_label_follow_one_another(fleet: HubFixture) -> None:
    found: list[str] = []
    after = ""
    while after is not None:
        path = f"/api/v1/devices?limit=3&label=hw%3Drpi4&after={after}"
        answer = fleet.client.get(path, headers=fleet.auth()).json()
        found += [device["id"] for device in answer["items"]]
        after = answer["next"]
    assert found == [large_fleet.name_of(number) for number in range(0, SMALL, len(large_fleet.CLASSES))]
