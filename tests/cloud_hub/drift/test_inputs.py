"""Broken data and outliers on a real hub: windows as devices pack them in, alarms that name device and input out."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import Raw, to_builtins
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.drift.engine import DriftEngine
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.store.tables import (
    Alarm,
    AlarmResponse,
    Device,
    InputMonitor,
    InputWatch,
    Model,
    OutboxCommand,
    WindowRow,
)
from edge_agent.telemetry.windows import Builder, Key
from fleet.protocol import topics
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.drift_encoder import fit_encoder
from fleet.protocol.durations import DAY_S
from fleet.protocol.figures import TrainingProfile, encode_profile, planned_figures, summarize_input
from fleet.protocol.manifest import Tensor, decode_manifest, encode_manifest
from fleet.protocol.messages import Envelope
from fleet.protocol.sketch import outlying
from model_compiler.inputs.release_folder import blob_of
from tests.cloud_hub.drift.test_engine import promote
from tests.cloud_hub.drift.test_response import device_row, raise_alarm
from tests.support.hub import HubFixture
from tests.support.manifests import small_release
from tests.support.told import told

INPUTS = (Tensor(name="x", datatype="FP32", shape=(-1, 3)),)
TRAINED = np.random.default_rng(0).normal((20, 1000, 5), (4, 30, 1), (2000, 3)).astype(np.float32)
TOLD = planned_figures(INPUTS)[0]
PROFILE = TrainingProfile(inputs=(summarize_input(TOLD, list(TRAINED)),), names={"x": ("temperature", "pressure")})
ENCODER = fit_encoder(TRAINED, tensor="x", dims=3, features=64)
NAMES = ("a", "b", "c")


class Fleet:
    def __init__(self, hub: HubFixture, *, profiled: bool = True) -> None:
        self.hub, self.random, self.seq = hub, np.random.default_rng(1), 0
        hub.model()
        with hub.hub.session() as session:
            session.get_one(Model, "digits").policy = {
                "drift": {"retrain": "on-alarm", "sample_devices": 1, "baseline": "1h"}
            }
            for name in NAMES:
                session.add(device_row(name))
        self.publish(profiled=profiled)

    def publish(self, *, profiled: bool) -> None:
        data, blobs = small_release(inputs=INPUTS)
        profile = encode_profile(PROFILE)
        for sha256, blob in [*blobs.items(), (blob_of(profile).sha256, profile)]:
            self.hub.hub.objects.put_new(f"blobs/{sha256}", blob)
        manifest = decode_manifest(data)
        if profiled:
            manifest = replace(manifest, profile=blob_of(profile))
        release = self.hub.hub.publisher.publish_release("digits", encode_manifest(manifest), actor="test").number
        self.release = release
        promote(self.hub, release)

    def windows(self, count: int, change=lambda name, rows: rows, refused=lambda name: 0, told: bool = True) -> None:
        """Windows of ten minutes of each device: 30 rows of the training data, changed, and some refused requests."""
        with self.hub.hub.session() as session:
            for _ in range(count):
                self.hub.clock.advance(600)
                for name in NAMES:
                    session.add(self._window(name, change, refused(name), told))
        DriftEngine(self.hub.hub).look()

    def _window(self, name, change, refused: int, told: bool) -> WindowRow:
        now, rows = self.hub.clock(), change(name, TRAINED[self.random.integers(0, 2000, 30)])
        body = {"counters": {"requests": 30 + refused}}
        if told:
            summary = summarize_input(TOLD, list(rows), {"0": refused} if refused else {})
            body |= {"inputs": to_builtins((summary,)), "outlying": int(outlying(ENCODER, rows).sum())}
        self.seq += 1
        return WindowRow(
            device_id=name,
            spool="s",
            seq=self.seq,
            model="digits",
            release=self.release,
            started_at=now - 600,
            ended_at=now,
            body=body,
            sketch_count=30,
        )

    def alarms(self) -> list[Alarm]:
        with self.hub.hub.reading() as session:
            return list(session.exec(select(Alarm).order_by(Alarm.id)))

    def monitor(self) -> dict:
        (found,) = self.hub.client.get("/api/v1/drift", headers=self.hub.auth()).json()["items"]
        return found


def set_baseline(fleet: Fleet, baseline: str) -> None:
    with fleet.hub.hub.session() as session:
        session.get_one(Model, "digits").policy = {"drift": {"samples": 0, "baseline": baseline}}


@pytest.fixture
def fleet(hub: HubFixture) -> Fleet:
    return Fleet(hub)


def nan_on_a(name: str) -> int:
    return 13 if name == "a" else 0


def test_nan_names_device_input_and_feature_and_starts_no_retrain(fleet: Fleet) -> None:
    fleet.windows(20)
    assert fleet.alarms() == []
    fleet.windows(20, refused=nan_on_a)
    (alarm,) = fleet.alarms()
    assert alarm.detail["kind"] == "quality" and alarm.detail["devices"] == ["a"]
    assert told(fleet.hub.hub) == [("alarm.raised", "digits")]
    assert "input 'x', temperature: 3" in alarm.detail["reason"] and "on device a since 20" in alarm.detail["reason"]
    with fleet.hub.hub.reading() as session:
        assert session.get_one(AlarmResponse, alarm.id).state == "asked"
        assert session.exec(select(OutboxCommand)).all() == []  # no device runs it by its own report


def test_a_stuck_sensor_and_another_unit_are_told_apart(fleet: Fleet) -> None:
    def change(name, rows):
        if name == "b":
            rows[:, 1] = 998.0
        if name == "c":
            rows[:, 2] *= 1000.0
        return rows

    fleet.windows(20)
    fleet.windows(20)
    fleet.windows(40, change)
    quality, far = fleet.alarms()
    assert far.detail["kind"] == "outliers" and far.detail["devices"] == ["c"]
    alarm = quality
    reason = alarm.detail["reason"]
    assert "pressure: stuck" in reason and "another unit?" in reason and alarm.detail["devices"] == ["b", "c"]
    found = {(one["device"], one["problem"]) for one in alarm.detail["findings"]}
    assert ("b", "constant") in found and {("c", "unit"), ("c", "range")} <= found


def test_a_sensor_that_sleeps_at_night_and_a_device_that_never_had_one_are_left_in_peace(fleet: Fleet) -> None:
    def habits(name, rows):
        if name == "a" or fleet.hub.clock() % 86_400 < 6 * 3600:
            rows[:, 1] = 1000.0
        return rows

    set_baseline(fleet, "1d")
    for _ in range(6):
        fleet.windows(72, habits)
    assert fleet.alarms() == []
    fleet.windows(60, lambda name, rows: rows * [1, 1, 0] + [0, 0, 5] if name == "b" else habits(name, rows))
    (alarm,) = fleet.alarms()
    assert alarm.detail["devices"] == ["b"] and "feature 2: stuck" in alarm.detail["reason"]


def test_outliers_alarm_by_their_rate(fleet: Fleet) -> None:
    fleet.windows(160)
    assert fleet.alarms() == []

    def far(name, rows):
        if name == "a":
            rows[:9] = TRAINED.min(axis=0)  # each number is known, together they are not
        return rows

    fleet.windows(30, far)
    kinds = [alarm.detail["kind"] for alarm in fleet.alarms()]
    assert kinds == ["outliers"]
    assert (
        fleet.alarms()[0].detail["devices"] == ["a"]
        and "% of the inputs are outlying" in fleet.alarms()[0].detail["reason"]
    )


def test_another_device_is_added_to_the_open_alarm_and_closing_accepts_it(fleet: Fleet) -> None:
    fleet.windows(20)
    fleet.windows(20, refused=nan_on_a)
    fleet.windows(20, refused=lambda name: 13 if name in ("a", "b") else 0)
    (alarm,) = fleet.alarms()
    assert alarm.detail["devices"] == ["a", "b"] and "on devices a, b since" in alarm.detail["reason"]
    assert fleet.hub.client.post(f"/api/v1/alarms/{alarm.id}/close", headers=fleet.hub.auth()).status_code == 200
    fleet.windows(40, refused=lambda name: 13 if name in ("a", "b") else 0)
    assert len(fleet.alarms()) == 1  # the operator knows
    fleet.windows(20, refused=lambda name: 300 if name == "b" else 0)
    assert [alarm.detail["devices"] for alarm in fleet.alarms()][1:] == [["b"]]


def test_a_promotion_begins_anew_and_closes_what_was_open(fleet: Fleet) -> None:
    fleet.windows(20)
    fleet.windows(20, refused=nan_on_a)
    fleet.publish(profiled=True)
    fleet.windows(20)
    assert [alarm.status for alarm in fleet.alarms()] == [
        "open"
    ]  # a device may come back to it, such as one that is off
    fleet.hub.clock.advance(DAY_S)
    fleet.windows(1)
    (alarm,) = fleet.alarms()
    assert alarm.status == "closed" and "not watched any more" in alarm.detail["closed"]
    with fleet.hub.hub.reading() as session:
        assert session.get_one(InputMonitor, ("digits", 2)).document["windows"] == 63


def test_an_alarm_names_the_features_that_moved_on_its_devices(fleet: Fleet) -> None:
    def warmer(name, rows):
        rows[:, 0] += 10.0 if name == "a" else 0.0
        return rows

    fleet.windows(30)
    since = fleet.hub.clock()
    fleet.windows(10, warmer)
    alarm = raise_alarm(fleet.hub, devices=["a"], since=since, kind="inputs")
    detail = next(found for found in fleet.alarms() if found.id == alarm).detail
    assert [one["name"] for one in detail["features"]] == ["temperature"]
    assert "most moved: temperature " in detail["reason"] and " → " in detail["reason"]
    other = raise_alarm(fleet.hub, devices=["b"], since=since, kind="inputs")
    items = fleet.hub.client.get("/api/v1/alarms", headers=fleet.hub.auth()).json()["items"]
    shown = {item["id"]: item["detail"] for item in items}
    assert shown[alarm]["features"][0]["after"] == pytest.approx(30, abs=1) and shown[other]["features"] == []
    assert "no feature moved by itself" in shown[other]["reason"]


def test_what_is_not_watched_is_said(hub: HubFixture) -> None:
    fleet = Fleet(hub, profiled=False)
    fleet.windows(3, told=False)
    assert fleet.monitor()["quality"].startswith("not watched")
    fleet.windows(3)
    said = fleet.monitor()["quality"]
    assert "range and unit are not watched" in said and "9 of 18 windows" in said
    assert "record" in fleet.monitor()["outliers"]


def test_what_a_device_packs_is_what_is_read(fleet: Fleet) -> None:
    fleet.windows(20)
    builder = Builder(Key("digits", fleet.release, "v", None), 0.0, 0, ENCODER)
    builder.watch(INPUTS, ENCODER)
    for row in TRAINED[:30] * 1e4:
        builder.request(0.001, ("edge",))
        builder.draw({"x": row[None]}, fleet.random.random)
    now, body = fleet.hub.clock(), builder.close(60.0)
    sent = [
        Envelope(device="a", spool="t", seq=seq, base=1, at=now, kind="window", body=Raw(encode_msgpack(body)))
        for seq in range(1, 30)
    ]
    topic = topics.uplink("a", "telemetry")
    assert Ingestor(fleet.hub.hub).take([Message(topic, encode_msgpack(envelope)) for envelope in sent])
    DriftEngine(fleet.hub.hub).look()
    (alarm,) = fleet.alarms()
    assert alarm.detail["devices"] == ["a"] and "more findings" in alarm.detail["reason"]
    assert {(one["place"], one["problem"]) for one in alarm.detail["findings"]} >= {(0, "unit"), (0, "range")}


def test_windows_of_other_releases_are_passed_so_that_nobody_waits_for_them(fleet: Fleet) -> None:
    """As where a new default release has no traffic yet: compaction keeps what a monitor has not counted."""
    fleet.windows(2)
    default, fleet.release = fleet.release, fleet.release + 7
    fleet.windows(2)
    with fleet.hub.hub.reading() as session:
        monitor = session.exec(select(InputMonitor)).one()
        last = max(row.id or 0 for row in session.exec(select(WindowRow)))
    assert monitor.release == default and monitor.last_window == last and monitor.document["windows"] == 6


def test_windows_of_a_revoked_device_count_no_longer(fleet: Fleet) -> None:
    """Sent before it was revoked, or by whoever has its key: what was forgotten of it would be made again."""
    fleet.windows(10)
    with fleet.hub.hub.session() as session:
        session.get_one(Device, "a").revoked_at = fleet.hub.clock()
        session.delete(session.get_one(InputWatch, ("digits", 1, "a")))
    fleet.windows(30, refused=nan_on_a)
    with fleet.hub.hub.reading() as session:
        assert (
            session.get(InputWatch, ("digits", 1, "a")) is None
            and session.get(InputWatch, ("digits", 1, "b")) is not None
        )
    assert fleet.alarms() == []
