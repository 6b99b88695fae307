"""The share of right answers, on a real hub: by auditor, and by group; another judge is no change of the devices."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.drift import truth
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.truth import Name, Watched, tracks_of
from cloud_hub.store.tables import Alarm, ChannelRow, Device, DeviceModel, MeaningMonitor, Model, WindowRow
from fleet.protocol.channel import Audit, decode_channel, encode_channel
from tests.cloud_hub.drift.test_engine import promote, publish
from tests.cloud_hub.drift.test_response import device_row
from tests.support.hub import HubFixture
from tests.support.told import told

SITES = {f"d-{number}": "berlin" if number < 3 else "oslo" for number in range(8)}


class Fleet:
    def __init__(self, hub: HubFixture) -> None:
        self.hub, self.random, self.seq = hub, np.random.default_rng(0), 0
        hub.model()
        with hub.hub.session() as session:
            session.get_one(Model, "digits").policy = {"drift": {"baseline_windows": 60, "samples": 0}}
            for name, site in SITES.items():
                row: Device = device_row(name)
                row.labels = {"site": site, "serial": name}
                session.add(row)
                session.flush()
                session.add(DeviceModel(device_id=name, model="digits", state="committed", active=1))
        promote(hub, publish(hub, "", seed=1))
        self.name_auditors(1)

    def name_auditors(self, *auditors: int) -> None:
        """A channel for each."""
        with self.hub.hub.session() as session:
            stable = session.get_one(ChannelRow, "stable")
            document = decode_channel(stable.document)
            for number, auditor in enumerate(auditors):
                entry = replace(document.models["digits"], audit=Audit(auditor=auditor))
                name = f"c-{number}" if number else "stable"
                row = stable if not number else ChannelRow(name=name, version=1, document=b"", updated_at=0.0)
                row.document = encode_channel(replace(document, channel=name, models={"digits": entry}))
                session.add(row)

    def audits(self, rounds: int, rate=lambda name: 0.9, auditor=lambda name: 1, ended=lambda name: None) -> None:
        """In each round a window of every device, with twenty audits of which `rate` agree."""
        with self.hub.hub.session() as session:
            for _ in range(rounds):
                self.hub.clock.advance(600)
                for name in SITES:
                    self.seq += 1
                    agree = int(self.random.binomial(20, rate(name)))
                    body = {"counters": {"audited": 20, "audit_agree": agree}, "auditor": auditor(name)}
                    now = self.hub.clock()
                    session.add(
                        WindowRow(
                            device_id=name,
                            spool="s",
                            seq=self.seq,
                            model="digits",
                            release=1,
                            started_at=now - 600,
                            ended_at=ended(name) or now,
                            body=body,
                        )
                    )
        DriftEngine(self.hub.hub).look()

    def watched(self) -> Watched:
        with self.hub.hub.reading() as session:
            return truth.read(session.get_one(MeaningMonitor, ("digits", 1)))

    def alarms(self) -> list[Alarm]:
        with self.hub.hub.reading() as session:
            return list(session.exec(select(Alarm)))


@pytest.fixture
def fleet(hub: HubFixture) -> Fleet:
    return Fleet(hub)


def test_a_stricter_auditor_is_no_worse_device_and_the_former_one_s_record_is_kept(fleet: Fleet) -> None:
    fleet.audits(20)
    fleet.name_auditors(2)
    fleet.audits(20, rate=lambda name: 0.6, auditor=lambda name: 2)
    assert fleet.alarms() == []
    tracks = tracks_of(fleet.watched())
    assert tracks[Name("audits", 1)].record.mean == pytest.approx(0.9, abs=0.03)
    assert tracks[Name("audits", 2)].record.mean == pytest.approx(0.6, abs=0.03)
    fleet.audits(40, rate=lambda name: 0.6, auditor=lambda name: 1)  # the first one comes back, and sees worse
    (alarm,) = fleet.alarms()
    assert alarm.detail["auditor"] == 1 and "the auditor (release 1)" in alarm.detail["reason"]


def test_whom_a_device_alone_names_as_its_auditor_is_not_heard(fleet: Fleet) -> None:
    """Else one device with made-up numbers drives out the record of all."""
    fleet.audits(40)
    groups = {name.group for name in tracks_of(fleet.watched())}
    numbers = iter(range(1000, 2000))
    fleet.audits(70, rate=lambda name: 0.9, auditor=lambda name: next(numbers) if name == "d-7" else 1)
    watched = fleet.watched()
    assert watched.auditor == 1 and watched.audits.counted == 40 * 8 + 70 * 7 and watched.others == {}
    assert watched.audits.record is not None and watched.audits.record.units > 40 * 8
    assert {name.group for name in tracks_of(watched)} == groups


def test_a_window_that_ends_in_no_true_time_makes_no_record_longer(fleet: Fleet) -> None:
    fleet.audits(4)
    now = fleet.hub.clock()
    fleet.audits(8, ended=lambda name: {"d-0": 2e11, "d-1": -1e9}.get(name))
    record = fleet.watched().audits.record
    assert record is not None
    assert record.per_day == pytest.approx(60 * 86_400 / (7 * 600), rel=0.5) and now < 1e11


def test_a_backlog_of_windows_is_counted_in_one_look(fleet: Fleet) -> None:
    fleet.audits(130)  # 1040 windows
    assert fleet.watched().audits.counted == 1040


def test_two_channels_with_an_auditor_each_are_watched_both(fleet: Fleet) -> None:
    """Windows of both come mixed: a record that begins anew with every one of them is never made."""
    two = lambda name: 1 if name < "d-4" else 2  # noqa: E731
    fleet.name_auditors(1, 2)
    fleet.audits(40, auditor=two)
    assert {name.auditor for name, track in tracks_of(fleet.watched()).items() if track.record} == {1, 2}
    fleet.audits(40, rate=lambda name: 0.5 if name < "d-4" else 0.9, auditor=two)
    (alarm,) = fleet.alarms()
    assert alarm.detail["auditor"] == 1 and set(alarm.detail["devices"]) <= {f"d-{number}" for number in range(4)}


def test_a_group_that_becomes_worse_is_named(fleet: Fleet) -> None:
    fleet.audits(30)
    groups = {name.group for name in tracks_of(fleet.watched())}
    assert groups == {"", "site=berlin", "site=oslo"}  # a serial number is no group
    fleet.audits(12, rate=lambda name: 0.45 if SITES[name] == "berlin" else 0.93)
    (alarm,) = fleet.alarms()
    assert told(fleet.hub.hub) == [("alarm.raised", "digits")]
    assert alarm.detail["group"] == "site=berlin" and "of site=berlin" in alarm.detail["reason"]
    assert set(alarm.detail["devices"]) == {"d-0", "d-1", "d-2"}


def test_what_an_earlier_version_wrote_reads_on(fleet: Fleet) -> None:
    fleet.audits(10)
    with fleet.hub.hub.session() as session:
        row = session.get_one(MeaningMonitor, ("digits", 1))
        row.document = {key: row.document[key] for key in ("auditor", "audits", "labels", "alarmed")}
    fleet.audits(1)
    assert fleet.watched().audits.counted == 88 and fleet.alarms() == []


def test_windows_of_other_releases_are_passed_so_that_nobody_waits_for_them(fleet: Fleet) -> None:
    """As where a new default release has no traffic yet: compaction keeps what a monitor has not counted."""
    fleet.audits(1)
    before = fleet.watched()
    with fleet.hub.hub.session() as session:
        late = WindowRow(device_id="d-0", spool="t", seq=1, model="digits", release=9, started_at=0.0, ended_at=60.0)
        session.add(late)
        session.flush()
        last = late.id
    DriftEngine(fleet.hub.hub).look()
    with fleet.hub.hub.reading() as session:
        assert session.get_one(MeaningMonitor, ("digits", 1)).last_window == last
    assert fleet.watched().audits == before.audits


def test_audits_of_a_revoked_device_count_no_longer(fleet: Fleet) -> None:
    fleet.audits(20)
    with fleet.hub.hub.session() as session:
        session.get_one(Device, "d-0").revoked_at = fleet.hub.clock()
    fleet.audits(40, rate=lambda name: 0.0 if name == "d-0" else 0.9)
    assert fleet.watched().audits.counted == 20 * 8 + 40 * 7 and fleet.alarms() == []
