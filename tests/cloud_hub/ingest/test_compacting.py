"""Old windows become sums, sums become days, and days go; nothing is counted twice and nobody's windows go unread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlmodel import select

from cloud_hub.drift import explaining
from cloud_hub.ingest import compacting
from cloud_hub.ingest.compacting import Compaction
from cloud_hub.ingest.ingestor import Ingestor
from cloud_hub.store import uncounted
from cloud_hub.store.tables import (
    Alarm,
    DeviceEvent,
    DriftMonitor,
    DriftScope,
    InputMonitor,
    MeaningMonitor,
    VitalsHourRow,
    WindowRow,
    WindowSum,
)
from fleet.protocol.quantiles import MOST_WEIGHT, check_quantiles
from fleet.protocol.telemetry import QuantileData
from tests.cloud_hub.ingest.test_bad_messages import rows
from tests.cloud_hub.ingest.test_plans import plans
from tests.support.hub import START, HubFixture, make_hub
from tests.support.traffic import Traffic, prepare

DAY = 86_400.0


class Rig:
    """A hub on which a device sends windows, and whose compaction looks when the test says so."""

    def __init__(self, hub: HubFixture) -> None:
        self.hub, self.time = hub, hub.clock
        self.names = prepare(hub, 2)
        self.compaction = Compaction(hub.hub, lambda: self.monotonic)
        self.monotonic, self.spools = 0.0, 0

    def pass_days(self, days: float) -> None:
        """Let time pass, on all clocks."""
        self.time.advance(days * DAY)
        self.monotonic += days * DAY

    def send(self, count: int, kind: str = "window", *, ended_at: float | None = None) -> None:
        """Windows of a minute each, the first of them beginning now."""
        self.spools += 1
        traffic = Traffic(kind, self.names, spool=f"s{self.spools}")
        assert Ingestor(self.hub.hub).take(traffic.batch(count))
        now = self.time()
        with self.hub.hub.session() as session:
            for place, row in enumerate(session.exec(select(WindowRow).where(WindowRow.spool == f"s{self.spools}"))):
                row.started_at = now + 60 * (place // 2) if ended_at is None else ended_at
                row.ended_at = row.started_at + 60
                session.add(row)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.compaction.look()

    def watched(self, kind: type, last_window: int, *, release: int = 1, **fields: object) -> None:
        with self.hub.hub.session() as session:
            session.merge(kind(model="digits", release=release, updated_at=0.0, last_window=last_window, **fields))

    @property
    def requests(self) -> int:
        """Of all windows and all sums."""
        both = [*rows(self.hub, WindowRow), *rows(self.hub, WindowSum)]
        return sum(row.body["counters"]["requests"] for row in both)

    @property
    def sums(self) -> list[tuple[str, int, int]]:
        found = [(row.device_id, row.span_s, row.windows) for row in rows(self.hub, WindowSum)]
        return sorted(found)


@pytest.fixture
def rig(tmp_path: Path, hub_database: str) -> Iterator[Rig]:
    """On each database; the hub's first second is the first of an hour."""
    made = make_hub(tmp_path, database=hub_database, start=START // 3600 * 3600)
    yield Rig(made)
    made.hub.engine.dispose()


def test_hours_of_machines_go_with_the_hours_of_windows(rig: Rig) -> None:
    rig.look()
    kept = int(rig.time()) + 5 * 3600
    with rig.hub.hub.session() as session:
        for place in range(2 * compacting.STEP + 7):
            session.add(VitalsHourRow(device_id=f"d-{place % 9}", begins=kept - 3600 * (place + 1), heartbeats=60))
        session.add(VitalsHourRow(device_id="d-0", begins=kept, heartbeats=60))
    rig.pass_days(30 + 5 / 24)
    rig.look()
    assert [row.begins for row in rows(rig.hub, VitalsHourRow)] == [kept]


def test_windows_become_hours_and_days_and_go_and_nothing_is_counted_twice(rig: Rig) -> None:
    rig.look()
    rig.send(250)  # 125 minutes of two devices
    rig.look(2)
    assert rig.sums == [], "they have come just now"
    rig.pass_days(0.1)
    rig.look()
    rig.pass_days(3.1)
    rig.look(2)
    hours = {"cam-0": (6, 59, 60), "cam-1": (5, 59, 60)}  # but for the newest window, which stays
    assert rig.sums == [(name, 3600, count) for name, counts in hours.items() for count in counts]
    assert len(rows(rig.hub, WindowRow)) == 1 and rig.requests == 250 * 600
    rig.pass_days(31)
    rig.look(2)
    assert {span for _, span, _ in rig.sums} == {86_400} and rig.requests == 250 * 600
    assert all(row.begins % 86_400 == 0 and row.sketch_count for row in rows(rig.hub, WindowSum))
    rig.pass_days(401)
    rig.look()
    assert rig.sums == [] and len(rows(rig.hub, WindowRow)) == 1


def test_later_windows_of_an_hour_are_added_to_it(rig: Rig) -> None:
    """As of a device that was offline, and sends its spool when the hour is a sum already."""
    hour = rig.time()
    for _ in range(2):
        rig.send(10, ended_at=hour)
        rig.look()
        rig.pass_days(3.1)
        rig.look()
    rig.send(2)
    rig.look()
    rig.pass_days(3.1)
    rig.look()
    first = [row.windows for row in rows(rig.hub, WindowSum) if row.begins == hour]
    assert first == [10, 10] and rig.requests == 22 * 600


def test_each_step_takes_so_many_rows_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacting, "STEP", 10)
    rig.send(25)
    assert [compacting.sum_windows(rig.hub.hub, 1 << 40, 0, rig.time()) for _ in range(4)] == [10, 10, 4, 0]
    assert rig.requests == 25 * 600


def test_a_window_that_a_monitor_has_not_counted_waits_but_not_for_ever(rig: Rig) -> None:
    rig.send(20)
    numbers = sorted(row.id for row in rows(rig.hub, WindowRow))
    rig.watched(DriftMonitor, numbers[11], sketch_id="s", state="watching")
    rig.watched(MeaningMonitor, numbers[7], document={})
    rig.look()
    rig.pass_days(4)
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 12
    rig.watched(MeaningMonitor, numbers[7], document={"alarmed": "audits"})  # it passes what comes meanwhile
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 8
    rig.pass_days(11)
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 1 and rig.requests == 20 * 600


@pytest.mark.parametrize("ended_at", [60.0, 9e9], ids=["1970", "2255"])
def test_a_devices_clock_neither_hurries_nor_keeps_its_windows(rig: Rig, ended_at: float) -> None:
    rig.look()
    rig.pass_days(0.1)
    rig.send(6, ended_at=ended_at)
    rig.send(2)
    rig.pass_days(1)
    rig.look()
    assert rig.sums == [], "a day old, whatever they say"
    rig.pass_days(3.1)
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 1
    assert {("cam-0", 3600, 3), ("cam-1", 3600, 3)} <= set(rig.sums), "in the hour in which they came"
    rig.pass_days(435)
    rig.look(2)
    assert rig.sums == [], "and they go like the others"


def test_a_clock_that_jumps_ahead_deletes_nothing(rig: Rig) -> None:
    rig.send(6)
    rig.look()
    rig.time.advance(500 * DAY)
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 6


def test_marks_of_a_clock_that_ran_ahead_are_forgotten(rig: Rig) -> None:
    rig.time.advance(400 * DAY)
    rig.look()
    rig.time.advance(-400 * DAY)
    rig.send(6)
    rig.look()
    rig.pass_days(3.5)
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 1


def test_windows_of_a_model_that_nobody_has_are_not_kept_for_long(rig: Rig) -> None:
    rig.send(6)
    with rig.hub.hub.session() as session:
        for row in session.exec(select(WindowRow)):
            row.model = "unknown"
    rig.look()
    rig.pass_days(3.5)
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 1 and rig.sums == []


def test_reports_go_when_they_are_old_but_for_the_newest(rig: Rig) -> None:
    rig.send(6, kind="model")
    rig.pass_days(89)
    rig.look()
    assert len(rows(rig.hub, DeviceEvent)) == 6
    rig.pass_days(2)
    rig.look()
    assert len(rows(rig.hub, DeviceEvent)) == 1


def test_an_alarm_about_what_moved_long_ago_is_explained_by_sums(rig: Rig) -> None:
    """Its windows from before are gone; their sums say what inputs held then."""
    rig.send(40)
    rig.look()
    rig.pass_days(4)
    rig.look()
    since = rig.time() - 60
    rig.send(40)
    (release,) = {row.release for row in rows(rig.hub, WindowSum)}
    alarm = Alarm(model="digits", release=release, at=rig.time(), status="open", detail={"since": since, "devices": []})
    with rig.hub.hub.reading() as session:
        before, after = explaining._windows(session, alarm)
        summaries = [one for some in before for one in some]
    assert sum(one.rows for one in summaries) >= 39 * 64 > 0 and after


def spoil(rig: Rig, device: str, values: QuantileData, spool: str = "s1") -> None:
    """Give a device's windows a summary of numbers that ingest takes."""
    check_quantiles(values)
    with rig.hub.hub.session() as session:
        for row in session.exec(select(WindowRow).where(WindowRow.device_id == device, WindowRow.spool == spool)):
            row.body = {**row.body, "values": [msgspec.to_builtins(values)]}


def test_the_largest_weights_that_a_device_may_send_are_summed_up(rig: Rig) -> None:
    rig.send(80)
    spoil(rig, "cam-0", QuantileData(low=0.0, high=1.0, means=(0.0, 0.5, 1.0), weights=(MOST_WEIGHT,) * 3))
    for _ in range(2):
        compacting.sum_windows(rig.hub.hub, 1 << 40, 0, rig.time())
        (found,) = [row for row in rows(rig.hub, WindowSum) if row.device_id == "cam-0"]
        (values,) = msgspec.convert(found.body["values"], tuple[QuantileData, ...])
        check_quantiles(values)
        assert sum(values.weights) > MOST_WEIGHT and values.means[0] == 0.0 and values.means[-1] == 1.0
        rig.send(80)
        spoil(rig, "cam-0", values, "s2")


def test_a_window_that_cannot_be_summed_up_is_left_out_and_no_other(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.send(20)
    with rig.hub.hub.session() as session:
        broken = session.exec(select(WindowRow).where(WindowRow.device_id == "cam-0", WindowRow.seq == 3)).one()
        broken.body = {**broken.body, "values": [{"low": None, "high": 1.0}]}
    assert compacting.sum_windows(rig.hub.hub, 1 << 40, 0, rig.time()) == 19
    assert rig.sums == [("cam-0", 3600, 9), ("cam-1", 3600, 9)] and len(rows(rig.hub, WindowRow)) == 1
    assert "1 of 10 parts of it are left out" in caplog.text


def test_a_sum_that_cannot_be_read_is_made_anew(rig: Rig) -> None:
    rig.send(20)
    compacting.sum_windows(rig.hub.hub, 1 << 40, 0, rig.time())
    with rig.hub.hub.session() as session:
        for row in session.exec(select(WindowSum).where(WindowSum.device_id == "cam-0")):
            row.body = {"values": [{"low": None, "high": 1.0}]}
    rig.send(20)
    compacting.sum_windows(rig.hub.hub, 1 << 40, 0, rig.time())
    assert rig.sums == [("cam-0", 3600, 10), ("cam-1", 3600, 19)]


def test_one_kind_that_fails_keeps_no_other_waiting(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.send(6, kind="model")
    rig.pass_days(91)

    def fails(*_: object) -> int:
        raise ValueError("broken")

    monkeypatch.setattr(compacting, "sum_windows", fails)
    with pytest.raises(ValueError, match="broken"):
        rig.look()
    assert len(rows(rig.hub, DeviceEvent)) == 1


def test_a_clock_that_leaps_about_makes_no_more_sums_than_a_device_has_room_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compacting, "ROOM", 5)
    rig.send(40)
    with rig.hub.hub.session() as session:
        for place, row in enumerate(session.exec(select(WindowRow).where(WindowRow.device_id == "cam-0"))):
            row.ended_at = rig.time() - 3600 * place
    compacting.sum_windows(rig.hub.hub, 1 << 40, 0, rig.time() + 3600)
    assert [name for name, _, _ in rig.sums] == ["cam-0"] * 5 + ["cam-1"], "of the other nothing is missing"
    assert "15 hours of cam-0 are not kept" in caplog.text


def test_windows_that_wait_cost_nothing_and_are_looked_for_where_nobody_waits(tmp_path: Path) -> None:
    rig = Rig(make_hub(tmp_path))
    rig.send(20)
    rig.watched(InputMonitor, 0, document={})
    with rig.hub.hub.session() as writer:
        writer.connection()  # SQLite's one writer
        with plans(rig.hub.hub.engine) as found:
            assert compacting._due(rig.hub.hub, 1 << 40, 0) == []
            assert len(compacting._due(rig.hub.hub, 1 << 40, 7)) == 7
    steps = [step for text, plan in found.items() for step in plan if '"window"' in text or " window" in text]
    assert steps and not [step for step in steps if "SCAN" in step or "USING INTEGER PRIMARY KEY" in step]
    rig.hub.hub.engine.dispose()


def test_a_device_that_says_it_serves_an_old_release_keeps_only_its_own_few_windows(rig: Rig) -> None:
    """Its monitor gathers a first baseline that never comes: 14 days for nobody else's windows."""
    defaults = {"watched": [{"release": 2, "default": True}, {"release": 1, "devices": 1}]}
    rig.send(20)
    rows_of = sorted(rows(rig.hub, WindowRow), key=lambda row: row.id or 0)
    with rig.hub.hub.session() as session:
        session.add(DriftScope(model="digits", document=defaults, updated_at=0.0))
        for row in rows_of[:2]:
            session.get_one(WindowRow, row.id).release = 1
    gathered = {"awaited": [row.id for row in rows_of[:2]]}
    rig.watched(DriftMonitor, rows_of[-1].id, release=2, sketch_id="s", state="watching")
    rig.watched(DriftMonitor, rows_of[-1].id, sketch_id="s", state="waiting", document=gathered)
    rig.watched(InputMonitor, 0, document={})
    rig.look()
    rig.pass_days(4)
    rig.look()
    left = sorted(row.id or 0 for row in rows(rig.hub, WindowRow))
    assert left == [*gathered["awaited"], rows_of[-1].id], "and the newest one, whose number must not come again"
    rig.pass_days(11)
    rig.look()
    assert len(rows(rig.hub, WindowRow)) == 1 and rig.requests == 20 * 600
    with rig.hub.hub.reading() as session:
        (lost,) = uncounted.lost(session)["digits"]
    assert (lost.release, lost.windows) == (1, 2) and lost.words.startswith("2 windows were put away")


def test_what_went_before_a_monitor_counted_it_is_said(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """As of a release that is no default, whose monitor could not look for days."""
    rig.send(20)
    numbers = sorted(row.id or 0 for row in rows(rig.hub, WindowRow))
    with rig.hub.hub.session() as session:
        document = {"watched": [{"release": 2, "devices": 2}]}
        session.add(DriftScope(model="digits", document=document, updated_at=0.0))
    rig.watched(InputMonitor, numbers[15], release=2, document={})
    rig.watched(MeaningMonitor, numbers[17], release=2, document={})
    rig.look()
    rig.pass_days(4)
    rig.look()
    assert "3 windows of digits, release 2, go before its monitors counted them" in caplog.text
    (shown,) = rig.hub.client.get("/api/v1/drift", headers=rig.hub.auth()).json()["items"]
    assert shown["uncounted"].startswith("3 windows were put away before they were counted, the last of them ")
    rig.send(4)
    for days in (0.1, 4):
        rig.pass_days(days)
        rig.look()
    with rig.hub.hub.reading() as session:
        assert [one.windows for one in uncounted.lost(session)["digits"]] == [7], "they add up"
