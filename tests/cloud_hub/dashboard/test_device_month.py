"""A device's page says what it lacks, and when its answer came."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_hub.dashboard.views import devices
from cloud_hub.ingest.commands import send_command
from cloud_hub.store.tables import DeviceEvent, WindowRow
from tests.support import large_fleet, shown_fleet
from tests.support.hub import HubFixture, make_hub
from tests.support.shown_fleet import MODEL, name_of

HOUR = 3600


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    made = make_hub(tmp_path)
    shown_fleet.lay(made, 1)
    return made


def windows(hub: HubFixture, count: int, *, first: int) -> None:
    """So many windows of the device, which ended an hour apart, the last of them now."""
    now = hub.clock()
    fields = {"device_id": name_of(0), "model": MODEL, "release": 2, "spool": "s", "started_at": now - 99 * HOUR}
    fields |= {"body": {"counters": {"requests": 5, "edge": 5}}}
    rows = (WindowRow(seq=first + n, ended_at=now - (count - 1 - n) * HOUR, **fields) for n in range(count))
    large_fleet.write(hub, WindowRow, (row.model_dump(exclude={"id"}) for row in rows))


def test_a_month_says_where_it_lacks_requests(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "WINDOWS", 3)
    windows(hub, 2, first=1)
    assert devices.device_page(hub.hub, name_of(0), month=True).lacks_before is None
    windows(hub, 4, first=11)
    view = devices.device_page(hub.hub, name_of(0), month=True)
    assert view.lacks_before == hub.clock() - 2 * HOUR and view.month is not None
    assert sum(int(bar.title.split(": ")[1].split()[0]) for bar in view.month.bars) == 15
    hub.client.post("/login", data={"token": hub.admin_token})
    assert "too many windows" in hub.client.get(f"/devices/{name_of(0)}").text


def test_a_page_says_by_the_hubs_clock_when_a_device_has_answered(hub: HubFixture) -> None:
    sent = send_command(hub.hub, name_of(0), "diagnose", {})
    body = {"id": sent, "kind": "diagnose", "ok": True, "detail": "", "data": {}}
    fields = {"device_id": name_of(0), "spool": "s", "seq": 99, "kind": "result", "body": body}
    with hub.hub.session() as session:
        session.add(DeviceEvent(at=12.0, received_at=hub.clock() - 60, **fields))
    assert devices.device_page(hub.hub, name_of(0), month=False).asked_at == hub.clock() - 60
