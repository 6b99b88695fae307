"""Windows count once in their hour, whoever counts and however often, and none can fill or overflow the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloud_hub.ingest import traffic
from cloud_hub.store.tables import WindowRow
from cloud_hub.store.windows import settled
from tests.support.hub import HubFixture, make_hub


def window(hub: HubFixture, seq: int, counters: dict[str, Any], **changes: Any) -> None:
    fields = {"model": "digits", "release": 1, "started_at": hub.clock() - 60, "ended_at": hub.clock(), **changes}
    with hub.hub.session() as session:
        session.add(WindowRow(device_id="d", spool="s", seq=seq, body={"counters": counters}, **fields))


def count(hub: HubFixture) -> int:
    return traffic.count(hub.hub, settled(hub.hub.engine))


def shown(hub: HubFixture) -> list[tuple[int, int, int, int, int]]:
    with hub.hub.reading() as session:
        rows = traffic.hours(session, 0.0)
    return [(row.windows, row.requests, row.cloud, row.failed, row.refused) for row in rows]


def test_windows_count_once_in_the_hour_in_which_they_ended(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    hub.model()
    hub.release()
    window(hub, 1, {"requests": 10, "edge": 7, "cloud": 2, "refused": 1})
    window(hub, 2, {"requests": 5, "edge": 5})
    assert count(hub) == 2 and count(hub) == 0
    hub.clock.advance(3600)
    window(hub, 3, {"requests": 4, "edge": 1})
    assert count(hub) == 1 and shown(hub) == [(2, 15, 2, 1, 1), (1, 4, 0, 3, 0)]
    traffic.forget(hub.hub, hub.clock() - 1800)
    assert shown(hub) == [(1, 4, 0, 3, 0)]


def test_a_step_that_is_full_goes_on_where_it_ended(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(traffic, "STEP", 2)
    hub = make_hub(tmp_path)
    hub.model()
    hub.release()
    for seq in range(1, 6):
        window(hub, seq, {"requests": 1})
    assert [count(hub) for _ in range(4)] == [2, 2, 1, 0] and shown(hub) == [(5, 5, 0, 5, 0)]


def test_no_device_fills_or_overflows_the_table(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    hub.model()
    hub.release()
    huge = {"requests": (1 << 63) - 1, "edge": (1 << 63) - 1}
    window(hub, 1, huge, ended_at=1e18)
    window(hub, 2, huge, ended_at=0.0)
    window(hub, 3, huge, release=7)
    window(hub, 4, huge, model="none")
    assert count(hub) == 4 and shown(hub) == [(2, 2 * traffic.MOST, 0, 0, 0)]
