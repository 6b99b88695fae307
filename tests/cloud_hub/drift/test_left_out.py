"""A feature that only grows is found, said and left out; the others go on being judged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from msgspec import to_builtins
from msgspec.structs import replace
from sqlalchemy import event, update
from sqlmodel import Session, col, select

from cloud_hub.drift import records
from cloud_hub.drift.baseline import BLOCKS
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.growth import Climb, begun, followed, left_out
from cloud_hub.drift.input_state import DeviceInputs, InputMonitorState
from cloud_hub.drift.monitors import states_of
from cloud_hub.store.tables import Alarm, Device, InputMonitor, InputWatch, Model, WindowRow
from fleet.protocol.drift_encoder import encode_encoder, fit_encoder, sketch_id
from fleet.protocol.figures import TrainingProfile, encode_profile, planned_figures, summarize_input
from fleet.protocol.manifest import SketchRef, Tensor, decode_manifest, encode_manifest
from fleet.protocol.sketch import sketch
from model_compiler.inputs.release_folder import blob_of
from tests.cloud_hub.drift.test_engine import promote
from tests.cloud_hub.drift.test_response import device_row
from tests.support.hub import HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.told import told

NAMES = ("temperature", "pressure", "odometer")
ROWS = 40
MILD, HOT = np.array([2.0, 0.0, 0.0]), np.array([0.0, 0.0, 30.0])


class Fleet:
    """Devices that send windows of ten minutes with what `values` says of a moment: (rows, features)."""

    def __init__(self, hub: HubFixture, values, devices: int = 3, names: tuple[str, ...] = NAMES, **drift) -> None:
        self.hub, self.values, self.random, self.seq = hub, values, np.random.default_rng(1), 0
        self.devices = [f"d-{number}" for number in range(devices)]
        inputs = (Tensor(name="x", datatype="FP32", shape=(-1, len(names))),)
        self.told = planned_figures(inputs)[0]
        trained = np.concatenate([values(self, device, at) for device in self.devices for at in range(0, 86_400, 3600)])
        self.encoder = fit_encoder(trained, tensor="x", features=128)
        hub.model()
        with hub.hub.session() as session:
            session.get_one(Model, "digits").policy = {"drift": {"samples": 0, **drift}}
            for device in self.devices:
                session.add(device_row(device))
        profile = encode_profile(
            TrainingProfile(inputs=(summarize_input(self.told, list(trained)),), names={"x": names})
        )
        data, blobs = small_release(inputs=inputs)
        encoder = encode_encoder(self.encoder)
        for blob in (*blobs.values(), profile, encoder):
            hub.hub.objects.put_new(f"blobs/{blob_of(blob).sha256}", blob)
        manifest = replace(decode_manifest(data), profile=blob_of(profile))
        reference = next(iter(blobs.values()))
        ref = SketchRef(
            sketch_id=sketch_id(self.encoder), encoder=blob_of(encoder), reference=blob_of(reference), margin=0.0
        )
        manifest = replace(manifest, sketch=ref)
        promote(hub, hub.hub.publisher.publish_release("digits", encode_manifest(manifest), actor="test").number)
        self.began = hub.clock()

    def run(self, days: float, change=lambda device, rows: rows, looks: int = 2) -> None:
        """Windows of some days, looked at a few times a day."""
        for number in range(int(days * 144)):
            self.hub.clock.advance(600)
            with self.hub.hub.session() as session:
                for device in self.devices:
                    session.add(self._window(device, change))
            if number % (144 // looks) == 0:
                DriftEngine(self.hub.hub).look()
        DriftEngine(self.hub.hub).look()

    def _window(self, device: str, change) -> WindowRow:
        now = self.hub.clock()
        rows = change(device, self.values(self, device, now - self.began)).astype(np.float32)
        body = {
            "counters": {"requests": len(rows)},
            "inputs": to_builtins((summarize_input(self.told, list(rows)),)),
            "outlying": 0,
        }
        self.seq += 1
        return WindowRow(
            device_id=device,
            spool="s",
            seq=self.seq,
            model="digits",
            release=1,
            started_at=now - 600,
            ended_at=now,
            body=body,
            sketch_id=sketch_id(self.encoder),
            sketch_count=len(rows),
            sketch=sketch(self.encoder, rows).sums,
        )

    def alarms(self, kind: str = "inputs") -> list[Alarm]:
        with self.hub.hub.reading() as session:
            return [one for one in session.exec(select(Alarm)) if one.detail.get("kind", "inputs") == kind]

    def monitor(self) -> dict:
        (found,) = self.hub.client.get("/api/v1/drift", headers=self.hub.auth()).json()["items"]
        return found


def weather(fleet: Fleet, device: str, at: float, third) -> np.ndarray:
    random = getattr(fleet, "random", np.random.default_rng(0))
    rows = random.normal((20, 1000), (2, 20), (ROWS, 2))
    return np.column_stack([rows, third(random, device, at)])


def odometer(fleet: Fleet, device: str, at: float) -> np.ndarray:
    start = 5000 * (1 + int(device[2:]))
    return weather(fleet, device, at, lambda random, *_: start + at / 100 + np.sort(random.random(ROWS)))


def uptime(fleet: Fleet, device: str, at: float) -> np.ndarray:
    """Set back every three hours, and longer on every device."""
    period = 3600 * (3 + int(device[2:]))
    return weather(fleet, device, at, lambda random, *_: at % period + random.random(ROWS))


def epoch(fleet: Fleet, device: str, at: float) -> np.ndarray:
    return weather(fleet, device, at, lambda random, *_: 1.7e9 + at + random.random(ROWS))


def sensor(fleet: Fleet, device: str, at: float) -> np.ndarray:
    return weather(fleet, device, at, lambda random, *_: random.normal(5, 1, ROWS))


@pytest.mark.parametrize("values", [odometer, uptime, epoch])
def test_a_counter_is_said_and_left_out_and_the_others_are_judged(hub: HubFixture, values) -> None:
    fleet = Fleet(hub, values, baseline="8h")
    fleet.run(0.8)
    assert fleet.alarms() == []
    shown = fleet.monitor()
    assert "odometer, only grows or falls, on 3 of 3 devices" in shown["left_out"]
    assert (
        "the other 2 features are watched one by one" in shown["left_out"]
        and "give the model its difference" in (shown["left_out"])
    )
    assert shown["state"] == "watching" and shown["outliers"].startswith("not watched: a feature only grows")
    assert ("drift.unwatched", "digits") in told(hub.hub)
    fleet.run(0.3, lambda device, rows: rows + MILD if device == "d-1" else rows)
    (alarm,) = fleet.alarms()
    assert alarm.detail["devices"] == ["d-1"]
    assert "temperature" in alarm.detail["reason"] and "odometer" not in alarm.detail["reason"]


def test_where_only_a_counter_is_there_nothing_is_healthy(hub: HubFixture) -> None:
    alone = lambda fleet, device, at: odometer(fleet, device, at)[:, 2:]  # noqa: E731
    fleet = Fleet(hub, alone, devices=1, names=("odometer",), baseline="6h")
    fleet.run(0.5)
    shown = fleet.monitor()
    with hub.hub.reading() as session:
        (line,) = states_of(session, hub.clock())
    assert line.state == "growing" and "odometer, only grows or falls, on 1 of 1 devices" in line.words
    assert shown["state"] == "growing" and "no feature is left that could be watched" in shown["left_out"]
    assert fleet.alarms() == []


def test_one_device_of_many_whose_sensor_climbs_is_no_counter(hub: HubFixture) -> None:
    fleet = Fleet(hub, sensor, baseline="6h")

    def climbing(device: str, rows: np.ndarray) -> np.ndarray:
        return rows + (fleet.hub.clock() - fleet.began) / 1e4 * (device == "d-1")

    fleet.run(0.5, climbing)
    assert fleet.monitor()["left_out"] == ""


def test_a_device_that_leaves_takes_its_counters_along(hub: HubFixture) -> None:
    """Two of four devices are odometers; once these are revoked, the others' feature is judged as before."""

    def mixed(fleet: Fleet, device: str, at: float) -> np.ndarray:
        return (odometer if device in ("d-0", "d-1") else sensor)(fleet, device, at)

    fleet = Fleet(hub, mixed, devices=4, baseline="6h")
    fleet.run(0.5)
    assert "odometer, only grows or falls, on 2 of 4 devices" in fleet.monitor()["left_out"]
    with hub.hub.session() as session:
        for name in ("d-0", "d-1"):
            session.get_one(Device, name).revoked_at = hub.clock()
    fleet.devices = ["d-2", "d-3"]
    fleet.run(0.2)
    assert fleet.monitor()["left_out"] == ""
    with hub.hub.reading() as session:
        document = session.exec(select(InputMonitor.document)).one()
    assert document["watched"] == 2 and not any(document["growing"].values()) and document["left_out"] == []


def test_many_devices_are_forgotten_some_at_a_time_and_none_goes_uncounted(
    tmp_path: Path, hub_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows written while the revoked are looked for go with them, and are taken out of the counts, too."""
    monkeypatch.setattr(records, "AT_ONCE", 3)
    hub = make_hub(tmp_path, database=hub_database)
    seen = to_builtins(DeviceInputs(seen=True, grown=["2:x"]))
    names = [f"d-{number}" for number in range(9)]

    def watch(name: str, release: int) -> InputWatch:
        return InputWatch(model="m", release=release, device_id=name, document=seen, updated_at=1.0)

    facts = to_builtins(InputMonitorState(watched=10, growing={"2:x": 10}, left_out=["2:x"]))
    with hub.hub.session() as session:
        session.add(Model(name="m", created_at=0.0))
        for name in (*names, "stays"):
            session.add(device_row(name))
        session.flush()
        session.connection().execute(update(Device).where(col(Device.id).in_(names)).values(revoked_at=1.0))
        session.add_all([InputMonitor(model="m", release=n, document=facts, updated_at=1.0) for n in (1, 2)])
        session.add_all([watch(name, 1 + (name > "d-4")) for name in names[:8]] + [watch("stays", 1)])

    def meanwhile(connection, _cursor, statement, *_) -> None:
        if statement.startswith("DELETE FROM input_watch") and not fetched:
            fetched.append(1)
            with Session(connection) as other:
                other.add(watch("d-8", 2))
                other.flush()
                other.expunge_all()

    fetched: list[int] = []
    with hub.hub.session() as session:
        event.listen(hub.hub.engine, "before_cursor_execute", meanwhile)
        records.forget_revoked(session, "m")
        event.remove(hub.hub.engine, "before_cursor_execute", meanwhile)
    with hub.hub.reading() as session:
        assert [row.device_id for row in session.exec(select(InputWatch))] == ["stays"]
        found = {row.release: row.document for row in session.exec(select(InputMonitor))}
    hub.hub.engine.dispose()
    assert (found[1]["watched"], found[2]["watched"], found[2]["growing"]) == (5, 6, {"2:x": 6})


def test_what_is_known_of_its_input_is_read_once(hub: HubFixture) -> None:
    fleet = Fleet(hub, odometer, baseline="6h", left_out=["odometer"])
    engine, read = DriftEngine(hub.hub), Counter[str]()
    stored = hub.hub.objects.get
    hub.hub.objects.get = lambda name: (read.update([name]), stored(name))[1]  # type: ignore[method-assign]
    for _ in range(4):
        fleet.run(0.05, looks=1)
        engine.look()
    encoder = f"blobs/{blob_of(encode_encoder(fleet.encoder)).sha256}"
    assert read[encoder] > 1, "other engines looked, too"
    read.clear()
    hub.clock.advance(600)
    engine.look()
    assert not read[encoder]


def test_the_policy_leaves_a_feature_out_and_takes_it_back(hub: HubFixture) -> None:
    fleet = Fleet(hub, sensor, devices=2, left_out=["odometer"], baseline="6h")
    fleet.run(0.5)
    assert "odometer, is left out by the policy" in fleet.monitor()["left_out"]
    fleet.run(0.2, lambda device, rows: rows + HOT)
    assert fleet.alarms() == []
    with hub.hub.session() as session:
        session.get_one(Model, "digits").policy = {"drift": {"samples": 0, "baseline": "6h"}}
    fleet.run(0.1)
    assert fleet.monitor()["left_out"] == ""
    assert fleet.alarms(), "what came meanwhile counts again"


def test_a_feature_comes_back_where_it_does_not_grow_any_more() -> None:
    assert left_out({"a": 2, "b": 1, "c": 0}, 4, ()) == {"a"}
    assert left_out({"a": 1, "b": 1}, 4, ("a",)) == {"a"}
    assert left_out({"a": 1}, 5, ("a",)) == set()


def climbed(means: np.ndarray) -> Climb:
    first, *others = means.tolist()
    climb = begun(first)
    for mean in others:
        climb = followed(climb, mean)
    return climb


@pytest.mark.parametrize(
    ("means", "grows"),
    [
        (np.arange(100.0), True),
        (-np.arange(100.0), True),
        (np.arange(100.0) % 40, True),  # set back now and then
        (1.7e9 + 600 * np.arange(100.0), True),
        (np.arange(100.0) + np.random.default_rng(0).normal(0, 3, 100), True),  # of many machines behind one device
        (np.repeat(np.arange(50.0), 4), True),  # stands still at times
        (np.sin(np.arange(144) * 2 * np.pi / 144), False),
        (np.r_[np.zeros(60), np.ones(60)], False),
        (np.random.default_rng(0).normal(0, 1, 100) + 0.01 * np.arange(100), False),  # ages
        (np.full(100, 3.0), False),
        (np.arange(float(BLOCKS) / 2), False),  # too few to say
    ],
)
def test_what_counts_as_growth(means, grows: bool) -> None:
    assert climbed(means).grows is grows
