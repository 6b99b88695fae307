"""From telemetry windows to monitors and alarms: the streams of each model, stepped under a lease.

    waiting → baseline → watching ⇄ alarmed
                 ↑___________|________|     when another release is promoted, or an operator asks for a new baseline

*waiting*: too few windows. *baseline*: none is steady yet, and the test provisional. *alarmed*: an alarm
is open; the streams that it does not name go on being watched, and one that moves later is added to it.

A monitor belongs to the release that is the default. Windows of releases that are no channel's default (or a device's
pin) are not counted, so a promotion makes new baselines from what the new release sees; devices that go on with another
default or a pin keep theirs. The coordinates stay: the encoder is the model's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.clock import lies_ahead
from cloud_hub.context import Hub
from cloud_hub.drift import alarms, inputs, intake, records, truth
from cloud_hub.drift.basis import Basis, basis_of_encoder, decode_basis, encode_basis
from cloud_hub.drift.facts import labels, learn_facts
from cloud_hub.drift.policy import DriftPolicy, policy_of
from cloud_hub.drift.response import follow, respond, unanswered
from cloud_hub.drift.streams import Settings
from cloud_hub.drift.watch import Facts, Watch
from cloud_hub.errors import HubError
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.services.supervisor import Service
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import ChannelRow, Device, DriftMonitor, Model, Release, WindowRow
from fleet.protocol.channel import decode_channel
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import SketchRef, decode_manifest
from fleet.protocol.sketch import decode_encoder

log = logging.getLogger(__name__)
BATCH = 500  # windows per transaction
BATCHES = 20  # per look and model
SLOT_S = 60.0  # where no window says how often they come
LATE_S = 7 * 86_400.0  # a window that tells of a time before a new baseline is late; after so long its clock is wrong


class Target(Struct, frozen=True, kw_only=True):
    """A model that is watched: its newest default release, and all that some channel has as its default."""

    model: str
    release: int
    releases: frozenset[int]


class DriftEngine(PeriodicService):
    """Steps every model's monitor every `engines.drift_tick_s` seconds."""

    name = "drift"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, hub.config.engines.drift_tick_s)
        self._bases: dict[str, Basis | None] = {}  # by sketch id; None: the encoder cannot be read

    def look(self) -> None:
        """Count the new windows of every model on a channel. One model's trouble is not the others'.

        Raises:
            Exception: the last one, where nothing could be counted of any model.
        """
        with self._hub.reading() as session:
            targets = _targets(session)
        steps = (self._step_model, self._step_meaning, self._step_inputs, self._answer)
        failed: list[Exception] = []
        for target in targets:
            for step in steps:
                try:
                    step(target)
                except HubError as error:
                    log.warning("drift of %s is not watched now: %s", target.model, error)
                    failed.append(error)
                except Exception as error:
                    log.exception("drift of %s is not watched now", target.model)
                    failed.append(error)
        follow(self._hub)
        if targets and len(failed) >= (len(steps) - 1) * len(targets):
            raise failed[-1]

    def _answer(self, target: Target) -> None:
        """Let every open alarm be followed that is not yet: a hub may have ended between the two."""
        with self._hub.reading() as session:
            found = unanswered(session, target.model)
        for alarm in found:
            respond(self._hub, target.model, alarm)

    def _step_model(self, target: Target) -> None:
        """Count what the model's windows say in their sketches."""
        with self._hub.reading() as session:
            row, known = session.get(Release, (target.model, target.release)), session.get(DriftMonitor, target.model)
            sketch = decode_manifest(row.manifest).sketch if row is not None and row.manifest else None
            fixed = known is not None and sketch is not None and known.sketch_id == sketch.sketch_id and known.basis
        if sketch is None:
            return
        basis = None if fixed else self._basis(sketch)
        for _ in range(BATCHES):
            with self._hub.session() as session:
                owner = session.get(Model, target.model)
                policy = policy_of(owner.policy if owner is not None else {})
                monitor = _current(self._hub, session, target, sketch, policy)
                counted = self._count(session, monitor, target, policy, basis)
                monitor.updated_at = self._hub.clock()
                session.add(monitor)
                session.flush()
            if counted < BATCH:
                break

    def _basis(self, sketch: SketchRef) -> Basis | None:
        """The coordinates of an encoder; None where it is none. Read where no transaction waits.

        Raises:
            HubError: it is not there now. The first windows must not choose the coordinates instead, for ever.
        """
        if sketch.sketch_id not in self._bases:
            data = self._hub.objects.get(f"blobs/{sketch.encoder.sha256}").data
            try:
                self._bases[sketch.sketch_id] = basis_of_encoder(decode_encoder(data))
            except ProtocolError as error:
                log.warning("the sketch encoder %s cannot be read: %s", sketch.sketch_id[:12], error)
                self._bases[sketch.sketch_id] = None
        return self._bases[sketch.sketch_id]

    def _step_meaning(self, target: Target) -> None:
        """The same for how right the answers are; it needs no sketch."""
        hub, model, release = self._hub, target.model, target.release
        with hub.reading() as session:
            row, owner = session.get(Release, (model, release)), session.get(Model, model)
            if row is None or not row.manifest:
                return
            manifest, policy = decode_manifest(row.manifest), policy_of(owner.policy if owner is not None else {})
        news = truth.look(hub, model, release, manifest)
        if news is not None:
            with hub.session() as session:
                truth.step(hub, session, news, policy)

    def _step_inputs(self, target: Target) -> None:
        """Is the data broken, and are there more outliers? It needs no sketch either."""
        model, release = target.model, target.release
        with self._hub.reading() as session:
            row, owner = session.get(Release, (model, release)), session.get(Model, model)
            if row is None or not row.manifest:
                return
            manifest, policy = decode_manifest(row.manifest), policy_of(owner.policy if owner is not None else {})
        inputs.step(self._hub, model, release, manifest, policy)

    def _count(
        self, session: Session, monitor: DriftMonitor, target: Target, policy: DriftPolicy, basis: Basis | None
    ) -> int:
        """Count a batch of windows; returns how many."""
        learn_facts(session, monitor, self._hub.clock())
        newest = _newest(session, monitor.model)
        rows = _new_windows(session, monitor, target, policy.min_count)
        if not monitor.basis:
            if len(rows) < min(policy.baseline_windows, BATCH):
                return 0
            basis = basis or intake.basis_of(rows)
            if basis is None:
                monitor.last_window = rows[-1].id or 0
                return len(rows)
            monitor.basis = encode_basis(basis)
            ends = [(row.device_id, row.started_at, row.ended_at) for row in rows]
            monitor.document = {**monitor.document, "slot_s": intake.slot_of(ends) or SLOT_S}
        if rows:
            self._watch(session, monitor, rows, policy)
        # Windows that do not count, as of other releases, are passed once and not at every look.
        monitor.last_window = (rows[-1].id or 0) if len(rows) == BATCH else max(newest, monitor.last_window)
        return len(rows)

    def _watch(self, session: Session, monitor: DriftMonitor, rows: list[WindowRow], policy: DriftPolicy) -> None:
        monitor.last_window = rows[-1].id or 0
        basis, now, facts = decode_basis(monitor.basis), self._hub.clock(), monitor.document["facts"]
        settings = settings_of(policy, basis.weights)
        devices = {device.id: device for device in _devices(session, {row.device_id for row in rows})}
        since, anew = monitor.document["since"], _begun_anew(monitor.document, devices, now)
        earliest = {name: max(since, anew.get(name, 0.0), device.enrolled_at) for name, device in devices.items()}
        streams = records.load(session, monitor.model, devices)
        for stream in streams.values():
            if stream.slot * monitor.document["slot_s"] > stream.last:  # of slots of another length
                stream.slot = -1
        watch = Watch(
            settings,
            streams,
            {name: sorted(set(facts["groups"]) & set(labels(device.labels))) for name, device in devices.items()},
            Facts(
                devices=max(facts["devices"], len(devices)),
                groups=len(facts["groups"]),
                release=monitor.release,
                slot_s=monitor.document["slot_s"],
                now=now,
            ),
        )
        known = [
            row
            for row in rows
            if (device := devices.get(row.device_id)) is not None
            and not intake.late(row, device.enrolled_at, anew.get(row.device_id, 0.0))
        ]
        watch.count(intake.seen_in(known, basis, intake.Times(now=now, earliest=earliest)))
        records.save(session, monitor.model, [watch.streams[key] for key in sorted(watch.touched)], settings, now)
        over = watch.over()
        if over:
            alarm, new = alarms.raise_or_extend(session, monitor, over, settings, now)
            reason = alarm.detail["reason"]
            self._hub.audit(
                session, "drift", "alarm.raise" if new else "alarm.extend", monitor.model, {"reason": reason}
            )
            log.warning("drift of %s: %s", monitor.model, reason)
        alarmed = alarms.open_alarm(session, monitor.model) is not None
        steady = any(stream.state == "steady" for stream in watch.streams.values())
        monitor.state = "alarmed" if alarmed else "watching" if steady else "baseline"


def settings_of(policy: DriftPolicy, weights: intake.Floats) -> Settings:
    """A policy as the streams want it."""
    return Settings(
        period_s=policy.baseline_s,
        first=policy.baseline_windows,
        budget_days=policy.budget_days,
        weights=weights,
    )


def _targets(session: Session) -> list[Target]:
    """Every model on a channel, by name."""
    found: dict[str, set[int]] = {}
    for row in session.exec(select(ChannelRow)):
        for model, entry in decode_channel(row.document).models.items():
            found.setdefault(model, set()).add(entry.release)
    return [
        Target(model=model, release=max(releases), releases=frozenset(releases))
        for model, releases in sorted(found.items())
    ]


def _current(hub: Hub, session: Session, target: Target, sketch: SketchRef, policy: DriftPolicy) -> DriftMonitor:
    """The model's monitor, begun anew with another release, another sketch, or when its baselines are to be renewed."""
    now, model = hub.clock(), target.model
    lock_name(session, f"drift:{model}")  # also the operator who closes its alarm, and a monitor that has no row yet
    monitor = session.get(DriftMonitor, model)
    if monitor is None:
        monitor = DriftMonitor(model=model, sketch_id="", release=0, state="waiting", updated_at=now)
        monitor.document = {"since": 0.0, "began": now, "slot_s": SLOT_S}
    elif monitor.document.get("epoch") == target.release and monitor.sketch_id == sketch.sketch_id:
        refresh = policy.refresh_s
        due = refresh and now - monitor.document.get("began", now) >= refresh
        if due and alarms.open_alarm(session, model) is None:  # what an alarm names is not usual
            begin_anew(hub, session, monitor, actor="policy", why="the policy renews baselines")
        ahead = [name for name in ("since", "began", "anew") if lies_ahead(monitor.document.get(name, 0.0), now)]
        if ahead:  # a clock that ran ahead has written it
            monitor.document = {**monitor.document, **dict.fromkeys(ahead, now)}
        return monitor
    elif monitor.document and monitor.sketch_id == sketch.sketch_id:
        _promoted(session, monitor, target, now)
    else:
        # Of an earlier version: the windows of this release count from the start.
        since, last = (now, _newest(session, model)) if monitor.document else (0.0, 0)
        alarms.close_all(session, model, f"release {target.release} was promoted")
        records.forget(session, model)
        slot_s = monitor.document.get("slot_s", SLOT_S)
        monitor.state, monitor.last_window = "waiting", last
        monitor.document = {"since": since, "began": now, "slot_s": slot_s}
    if monitor.sketch_id != sketch.sketch_id:
        monitor.basis = b""
    monitor.sketch_id, monitor.release = sketch.sketch_id, target.release
    monitor.document = {**monitor.document, "epoch": target.release}
    return monitor


def _promoted(session: Session, monitor: DriftMonitor, target: Target, now: float) -> None:
    """Another release is the newest default, with the same sketch: devices that go on with theirs, on another channel
    or by a pin, keep baselines, evidence and alarm; groups and the fleet begin anew."""
    model = monitor.model
    document = {name: value for name, value in monitor.document.items() if name != "facts"}
    monitor.document = document
    learn_facts(session, monitor, now)
    left = records.forget_all_but(session, model, target.releases | set(monitor.document["facts"]["pinned"]))
    alarm = alarms.close_unnamed(session, model, f"release {target.release} was promoted")
    if left:
        monitor.state = "alarmed" if alarm is not None else "baseline"
        return
    monitor.state, monitor.last_window = "waiting", _newest(session, model)
    monitor.document = {"since": now, "began": now, "slot_s": monitor.document.get("slot_s", SLOT_S)}


def _newest(session: Session, model: str) -> int:
    """The number of the model's newest window."""
    return session.exec(select(func.max(WindowRow.id)).where(WindowRow.model == model)).one() or 0


def begin_anew(
    hub: Hub, session: Session, monitor: DriftMonitor, *, actor: str, why: str, devices: list[str] | None = None
) -> int:
    """Begin baselines anew, of some devices or of all streams; returns how many. Open alarms about all are closed."""
    keys = None if devices is None else [("device", name) for name in devices]
    count = records.forget(session, monitor.model, keys)
    now = hub.clock()
    if devices is None:
        alarms.close_all(session, monitor.model, why)
        monitor.state, monitor.last_window = "waiting", _newest(session, monitor.model)
        monitor.document = {**monitor.document, "since": now, "began": now, "anew": now, "anew_of": {}}
    else:
        known = {name: at for name, at in monitor.document.get("anew_of", {}).items() if now - at < LATE_S}
        monitor.document = {**monitor.document, "anew_of": {**known, **dict.fromkeys(devices, now)}}
    session.add(monitor)
    hub.audit(session, actor, "drift.rebaseline", monitor.model, {"why": why, "streams": count, "devices": devices})
    return count


def _begun_anew(document: Mapping[str, Any], devices: Iterable[str], now: float) -> dict[str, float]:
    """When baselines were begun anew on request: since when windows of a device count. It is forgotten after `LATE_S`;
    a time that lies ahead was written by a clock that ran ahead."""
    whole, some = document.get("anew", 0.0), document.get("anew_of", {})
    found = {name: max(whole, some.get(name, 0.0)) for name in devices}
    return {name: at for name, at in found.items() if at and now - at < LATE_S and not lies_ahead(at, now)}


def _new_windows(session: Session, monitor: DriftMonitor, target: Target, min_count: int) -> list[WindowRow]:
    releases = sorted(target.releases | set(monitor.document["facts"]["pinned"]))
    rows = (
        select(WindowRow)
        .where(WindowRow.model == monitor.model, col(WindowRow.id) > monitor.last_window)
        .where(WindowRow.sketch_id == monitor.sketch_id, WindowRow.sketch_count >= min_count)
        .where(col(WindowRow.release).in_(releases))
        .order_by(col(WindowRow.id))
        .limit(BATCH)
    )
    return list(session.exec(rows))


def _devices(session: Session, names: set[str]) -> list[Device]:
    return list(session.exec(select(Device).where(col(Device.id).in_(sorted(names)))))


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    return [DriftEngine(hub)]
