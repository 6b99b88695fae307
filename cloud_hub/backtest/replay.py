"""The throwaway hub of a backtest: windows go in, the production engine looks at them at the data's time, and an
operator answers its alarms as it was said beforehand.

Nothing is published, signed or sent: the hub has no keys, and its devices are names. Telemetry is summed up and
forgotten as a hub does it, so the disk that it takes is bounded by devices and days kept, not by the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import Engine, delete, event, update
from sqlmodel import Session, SQLModel, col, select

from cloud_hub.backtest.answers import OperatorAnswer, Then
from cloud_hub.backtest.columns import HistoricRow
from cloud_hub.backtest.windows import ClosedWindow
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.drift import monitors, silence, truth
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.policy import policy_of
from cloud_hub.drift.truth_evidence import BATCH
from cloud_hub.identity.device_tokens import DeviceTokens
from cloud_hub.identity.keyless import NoAuthority, NoCommandKey
from cloud_hub.ingest.compacting import Compaction
from cloud_hub.journal import Journal
from cloud_hub.monitoring.board import StatusBoard
from cloud_hub.objects import blob_key, open_objects
from cloud_hub.store.engine import make_engine
from cloud_hub.store.tables import (
    Alarm,
    ChannelRow,
    Device,
    DeviceModel,
    DriftMonitor,
    DriftStream,
    Model,
    Release,
    SampleRow,
    WindowRow,
)
from cloud_hub.trust.publisher import TufPublisher
from fleet.api.drift import MonitorInfo, Rebaseline, StreamInfo
from fleet.protocol.channel import Channel, ModelEntry, encode_channel
from fleet.protocol.durations import DAY_S

MODEL, RELEASE, CHANNEL = "history", 1, "history"
OPERATOR = "backtest"
Key = tuple[str, str]  # kind and name of a stream


class LoadedRelease(Struct, frozen=True, kw_only=True):
    """A release: its manifest's bytes, and the blobs that the engine reads, by SHA-256."""

    manifest: bytes
    blobs: Mapping[str, bytes]


class RaisedAlarm(Struct, kw_only=True):
    """An alarm with its newest `detail`: when it was raised, when it was closed, and how."""

    number: int
    at: float
    detail: dict[str, Any]
    closed_at: float | None = None
    closed: str = ""


class _DataClock:
    """The time of the data."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Replay:
    """A hub whose clock is the data's.

    Args:
        folder: where it may write; the caller removes it.
        release: what the devices serve.
        policy: the drift part of the model's policy, as a hub takes it. No samples are asked for, nothing retrains.
        began: when it begins (Unix seconds).
        answer: to alarms, and how long after an answer its label comes.
    """

    def __init__(
        self, folder: Path, release: LoadedRelease, policy: Mapping[str, Any], began: float, answer: OperatorAnswer
    ) -> None:
        self._clock, self._answer = _DataClock(began), answer
        self._policy = policy_of({"drift": dict(policy)})
        self._hub = _hub(folder, self._clock)
        _fill(self._hub, release, {**policy, "samples": 0, "retrain": "off"}, began)
        self._engine, self._compaction = DriftEngine(self._hub), Compaction(self._hub, self._clock)
        self._numbers, self._label_delay_s = count(1), answer.label_s
        self._labels: list[tuple[float, int, str, int, int]] = []  # a heap: when it comes, its number, …
        self._known: dict[str, tuple[tuple[str, str], ...]] = {}
        self._compacted = self._heard = began
        self.alarms: list[RaisedAlarm] = []
        self.steady_at: dict[Key, float] = {}
        self.silences: list[tuple[float, float]] = []

    def close(self) -> None:
        """Let go of the database."""
        self._hub.engine.dispose()

    def take(self, windows: Iterable[ClosedWindow]) -> None:
        """Receive windows."""
        ordered = sorted(windows, key=lambda one: (one.ended_at, one.device))
        self._hear(ordered)
        with self._hub.session() as session:
            self._meet(session, ordered)
            session.flush()
            session.add_all([_row(one, next(self._numbers)) for one in ordered])

    def hear_label(self, row: HistoricRow) -> None:
        """Keep a row's label until it comes; the engine counts labels in the order of their times, so none may wait for
        the end of its window."""
        if row.refused is None and row.answer is not None and row.label is not None:
            comes = row.at + self._label_delay_s
            heappush(self._labels, (comes, next(self._numbers), row.device, row.answer, row.label))

    def look(self, now: float) -> None:
        """Turn the clock to a moment, let the engine look, and answer alarms that have waited for long enough."""
        self._clock.now = now
        for _ in range(1 + self._label(now) // BATCH):
            self._engine.look()
        if now - self._compacted >= DAY_S:
            self._tidy(now)
        self._note(now)
        for alarm in self.alarms:
            if alarm.closed_at is None and self._ends(alarm) and now - alarm.at >= self._answer.after_s:
                self._close(alarm, now)

    @property
    def devices(self) -> int:
        """The number of devices that there were."""
        return len(self._known)

    @property
    def labels_to_come(self) -> int:
        """The number of labels that have not come yet."""
        return len(self._labels)

    def monitor(self) -> MonitorInfo | None:
        """The monitor as it stands now."""
        return next((one for one in monitors.list_monitors(self._hub, MODEL) if one.release == RELEASE), None)

    def streams(self) -> list[StreamInfo]:
        """All streams as they stand now, the fleet and groups first."""
        found = monitors.list_streams(self._hub, MODEL, RELEASE, "", len(self._known) + 1000)
        order = {"fleet": 0, "group": 1, "device": 2}
        return sorted(found, key=lambda one: (order[one.kind], one.name))

    def _meet(self, session: Session, windows: Sequence[ClosedWindow]) -> None:
        """A device is enrolled with its first window, is heard of with each, and relabelled when its group changes."""
        latest = {one.device: one for one in windows}
        first = {one.device: one for one in reversed(windows)}
        for name in sorted(latest.keys() - self._known.keys()):
            session.add(_device(first[name]))
            session.flush()
            session.add(DeviceModel(device_id=name, model=MODEL, state="committed", active=RELEASE))
        for name, one in latest.items():
            heard = update(Device).where(col(Device.id) == name)
            session.connection().execute(heard.values(last_seen_at=one.ended_at))
            if self._known.get(name, one.labels) != one.labels:
                session.connection().execute(heard.values(labels=dict(one.labels)))
            self._known[name] = one.labels

    def _label(self, now: float) -> int:
        """Label the samples whose labels have come by a moment; returns how many."""
        due = 0
        with self._hub.session() as session:
            while self._labels and self._labels[0][0] <= now:
                session.add(_sample(*heappop(self._labels)))
                due += 1
        return due

    def _tidy(self, now: float) -> None:
        """Sum up and forget what a hub would, and labels that are counted."""
        self._compaction.look()
        with self._hub.session() as session:
            session.connection().execute(delete(SampleRow).where(col(SampleRow.labelled_at) < now - DAY_S))
        self._compacted = now

    def _hear(self, windows: Sequence[ClosedWindow]) -> None:
        """Note times in which no window that counts has ended for so long that the monitor would have been silent."""
        with self._hub.reading() as session:
            row = session.get(DriftMonitor, (MODEL, RELEASE))
        patience = silence.after_s(self._policy, row.document.get("slot_s", 0.0) if row is not None else 0.0)
        for one in windows:
            if one.sketch is None or one.sketch.count >= self._policy.min_count:
                if one.ended_at - self._heard > patience:
                    self.silences.append((self._heard, one.started_at))
                self._heard = max(self._heard, one.ended_at)

    def _note(self, now: float) -> None:
        """Write down new alarms, what open ones say by now, and which streams are steady since when."""
        open_ones = {alarm.number: alarm for alarm in self.alarms if alarm.closed_at is None}
        with self._hub.reading() as session:
            last = self.alarms[-1].number if self.alarms else 0
            rows = session.exec(select(Alarm).where((col(Alarm.status) != "closed") | (col(Alarm.id) > last))).all()
            steady = session.exec(select(DriftStream.kind, DriftStream.name).where(DriftStream.state == "steady")).all()
        for row in rows:
            number = row.id or 0
            if number in open_ones:
                open_ones[number].detail = row.detail
            elif number > last:
                self.alarms.append(RaisedAlarm(number=number, at=row.at, detail=row.detail))
        # One that was begun anew is not steady any more.
        self.steady_at = {(kind, name): self.steady_at.get((kind, name), now) for kind, name in steady}
        still = {row.id for row in rows if row.status != "closed"}
        for number, alarm in open_ones.items():
            if number not in still:  # the engine itself has closed it
                alarm.closed_at, alarm.closed = now, "by itself"

    def _ends(self, alarm: RaisedAlarm) -> bool:
        """Tell whether an operator closes an alarm; one about answers only with `close`, for a release mends it."""
        of_answers = alarm.detail.get("kind") == truth.KIND
        return self._answer.then is Then.close if of_answers else self._answer.then is not Then.keep

    def _close(self, alarm: RaisedAlarm, now: float) -> None:
        """Answer an alarm; those that are not about a baseline of inputs are closed, which takes them for usual."""
        hub, detail, then = self._hub, alarm.detail, self._answer.then
        about_inputs = detail.get("kind", "inputs") == "inputs"
        alarm.closed_at, alarm.closed = now, then if about_inputs else Then.close
        if about_inputs and then is Then.rebaseline:
            devices = detail.get("devices", [])
            whole = detail.get("fleet") or detail.get("groups") or detail.get("device_count", 0) > len(devices)
            body = Rebaseline(devices=None if whole or not devices else devices)
            monitors.rebaseline(hub, MODEL, body, actor=OPERATOR)
        monitors.close_alarm(hub, alarm.number, actor=OPERATOR, usual=about_inputs and then is Then.usual)


def _hub(folder: Path, clock: _DataClock) -> Hub:
    config = HubConfig.build(folder, {})
    engine = make_engine(f"sqlite:///{folder / 'hub.db'}")
    _unsafe(engine)
    SQLModel.metadata.create_all(engine)
    objects = open_objects("memory://")
    journal = Journal(objects, clock)
    return Hub(
        config=config,
        engine=engine,
        objects=objects,
        publisher=TufPublisher(engine, objects, {}, clock=clock, expiry=config.expiry, journal=journal),
        authority=NoAuthority(b""),
        device_tokens=DeviceTokens(b""),
        command_key=NoCommandKey(),
        clock=clock,
        board=StatusBoard(),
        journal=journal,
    )


def _unsafe(engine: Engine) -> None:
    """A database that nobody needs after a crash waits for no disk."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")


def _fill(hub: Hub, release: LoadedRelease, policy: dict[str, Any], began: float) -> None:
    for sha256, data in release.blobs.items():
        hub.objects.put_new(blob_key(sha256), data)
    channel = Channel(channel=CHANNEL, version=1, models={MODEL: ModelEntry(release=RELEASE)})
    with hub.session() as session:
        session.add(Model(name=MODEL, policy={"drift": policy}, created_at=began))
        session.flush()
        session.add(
            Release(
                model=MODEL,
                number=RELEASE,
                status="published",
                manifest=release.manifest,
                created_at=began,
                published_at=began,
            )
        )
        session.add(ChannelRow(name=CHANNEL, version=1, document=encode_channel(channel), updated_at=began))


def _device(window: ClosedWindow) -> Device:
    return Device(
        id=window.device,
        public_key="",
        key_fingerprint="",
        certificate="",
        certificate_serial="",
        certificate_expires_at=0.0,
        channel=CHANNEL,
        labels=dict(window.labels),
        enrolled_at=window.started_at,
        last_seen_at=window.ended_at,
    )


def _sample(at: float, number: int, device: str, answer: int, label: int) -> SampleRow:
    return SampleRow(
        id=f"{number:012}",
        model=MODEL,
        device_id=device,
        release=RELEASE,
        variant="",
        reason="random",
        at=at,
        received_at=at,
        confidence=0.0,
        prediction=answer,
        label=label,
        labelled_at=at,
        path="",
    )


def _row(window: ClosedWindow, number: int) -> WindowRow:
    sketch = window.sketch
    return WindowRow(
        device_id=window.device,
        spool="history",
        seq=number,
        model=MODEL,
        release=RELEASE,
        started_at=window.started_at,
        ended_at=window.ended_at,
        body=window.body,
        sketch_id=sketch.sketch_id if sketch is not None else "",
        sketch_count=sketch.count if sketch is not None else 0,
        sketch=sketch.sums if sketch is not None else b"",
    )
