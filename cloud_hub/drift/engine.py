"""From telemetry windows to monitors and alarms: the streams of each model, stepped under a lease.

    waiting → baseline → watching ⇄ alarmed
                 ↑___________|________|     when another release is promoted, or an operator asks for a new baseline

*waiting*: too few windows. *baseline*: none is steady yet, and the test provisional. *alarmed*: an alarm
is open; the streams that it does not name go on being watched, and one that moves later is added to it.

A monitor belongs to the release that is the default. Windows of releases that are no channel's default (or a device's
pin) are not counted, so a promotion makes new baselines from what the new release sees. The coordinates stay: the
encoder is the model's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.clock import lies_ahead
from cloud_hub.context import Hub
from cloud_hub.drift import alarms, inputs, intake, records, truth
from cloud_hub.drift.basis import Basis, basis_of_encoder, decode_basis, encode_basis
from cloud_hub.drift.policy import DriftPolicy, policy_of
from cloud_hub.drift.response import follow, respond
from cloud_hub.drift.streams import Settings
from cloud_hub.drift.watch import MOST_GROUPS, Facts, Watch
from cloud_hub.errors import HubError
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.services.supervisor import Service
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, ChannelRow, Device, DeviceModel, DriftMonitor, Model, Release, WindowRow
from fleet.protocol.channel import decode_channel
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import SketchRef, decode_manifest
from fleet.protocol.sketch import decode_encoder

log = logging.getLogger(__name__)
BATCH = 500  # windows per transaction
BATCHES = 20  # per look and model
FACTS_S = 600.0  # how old what a monitor knows of the fleet may be
GROUP_DEVICES = 3  # at least, in a group


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
        """Count the new windows of every model on a channel."""
        with self._hub.reading() as session:
            targets = _targets(session)
        for target in targets:
            found = [self._step_model(target), self._step_meaning(target.model, target.release)]
            for alarm in [*found, *self._step_inputs(target.model, target.release)]:
                if alarm is not None:
                    respond(self._hub, target.model, alarm)
        follow(self._hub)

    def _step_model(self, target: Target) -> int | None:
        """Returns the number of a new alarm."""
        raised: int | None = None
        with self._hub.reading() as session:
            row = session.get(Release, (target.model, target.release))
            sketch = decode_manifest(row.manifest).sketch if row is not None and row.manifest else None
        if sketch is None:
            return None
        basis = self._basis(sketch)
        for _ in range(BATCHES):
            with self._hub.session() as session:
                owner = session.get(Model, target.model)
                policy = policy_of(owner.policy if owner is not None else {})
                monitor = _current(self._hub, session, target, sketch, policy)
                counted, alarm = self._count(session, monitor, target, policy, basis)
                monitor.updated_at = self._hub.clock()
                session.add(monitor)
                session.flush()
                raised = alarm.id if alarm is not None else raised
            if counted < BATCH:
                break
        return raised

    def _basis(self, sketch: SketchRef) -> Basis | None:
        """The coordinates of an encoder. Read where no transaction waits."""
        if sketch.sketch_id not in self._bases:
            try:
                encoder = decode_encoder(self._hub.objects.get(f"blobs/{sketch.encoder.sha256}").data)
                self._bases[sketch.sketch_id] = basis_of_encoder(encoder)
            except (HubError, ProtocolError) as error:
                log.warning("the sketch encoder %s cannot be read: %s", sketch.sketch_id[:12], error)
                if isinstance(error, HubError):  # it may come back
                    return None
                self._bases[sketch.sketch_id] = None
        return self._bases[sketch.sketch_id]

    def _step_meaning(self, model: str, release: int) -> int | None:
        """The same for how right the answers are; it needs no sketch."""
        hub = self._hub
        with hub.reading() as session:
            row, owner = session.get(Release, (model, release)), session.get(Model, model)
            if row is None or not row.manifest:
                return None
            manifest, policy = decode_manifest(row.manifest), policy_of(owner.policy if owner is not None else {})
        news = truth.look(hub, model, release, manifest)
        if news is None:
            return None
        with hub.session() as session:
            alarm = truth.step(hub, session, news, policy)
            return alarm.id if alarm is not None else None

    def _step_inputs(self, model: str, release: int) -> list[int]:
        """Is the data broken, and are there more outliers? It needs no sketch either."""
        with self._hub.reading() as session:
            row, owner = session.get(Release, (model, release)), session.get(Model, model)
            if row is None or not row.manifest:
                return []
            manifest, policy = decode_manifest(row.manifest), policy_of(owner.policy if owner is not None else {})
        return inputs.step(self._hub, model, release, manifest, policy)

    def _count(
        self, session: Session, monitor: DriftMonitor, target: Target, policy: DriftPolicy, basis: Basis | None
    ) -> tuple[int, Alarm | None]:
        """Count a batch of windows; returns how many, and a new alarm."""
        _learn_facts(session, monitor, self._hub.clock())
        rows = _new_windows(session, monitor, target, policy.min_count)
        if not monitor.basis:
            if len(rows) < min(policy.baseline_windows, BATCH):
                return 0, None
            basis = basis or intake.basis_of(rows)
            if basis is None:
                monitor.last_window = rows[-1].id or 0
                return len(rows), None
            monitor.basis = encode_basis(basis)
            monitor.document = {**monitor.document, "slot_s": intake.slot_of(rows)}
        if not rows:
            return 0, None
        monitor.last_window = rows[-1].id or 0
        alarm = self._watch(session, monitor, rows, policy)
        return len(rows), alarm

    def _watch(
        self, session: Session, monitor: DriftMonitor, rows: list[WindowRow], policy: DriftPolicy
    ) -> Alarm | None:
        basis, now, facts = decode_basis(monitor.basis), self._hub.clock(), monitor.document["facts"]
        settings = settings_of(policy, basis.weights)
        devices = {device.id: device for device in _devices(session, {row.device_id for row in rows})}
        since = monitor.document["since"]
        earliest = {name: max(since, device.enrolled_at) for name, device in devices.items()}
        watch = Watch(
            settings,
            records.load(session, monitor.model, devices),
            {name: sorted(set(facts["groups"]) & set(labels(device.labels))) for name, device in devices.items()},
            Facts(
                devices=max(facts["devices"], len(devices)),
                groups=len(facts["groups"]),
                release=monitor.release,
                slot_s=monitor.document["slot_s"],
                now=now,
            ),
        )
        known = [row for row in rows if row.device_id in devices]
        watch.count(intake.seen_in(known, basis, intake.Times(now=now, earliest=earliest)))
        records.save(session, monitor.model, [watch.streams[key] for key in sorted(watch.touched)], settings, now)
        over, alarm, new = watch.over(), None, False
        if over:
            alarm, new = alarms.raise_or_extend(session, monitor, over, settings, now)
            reason = alarm.detail["reason"]
            self._hub.audit(
                session, "drift", "alarm.raise" if new else "alarm.extend", monitor.model, {"reason": reason}
            )
            log.warning("drift of %s: %s", monitor.model, reason)
        alarmed = alarm is not None or alarms.open_alarm(session, monitor.model) is not None
        steady = any(stream.state == "steady" for stream in watch.streams.values())
        monitor.state = "alarmed" if alarmed else "watching" if steady else "baseline"
        return alarm if new else None


def settings_of(policy: DriftPolicy, weights: intake.Floats) -> Settings:
    """A policy as the streams want it."""
    return Settings(
        period_s=policy.baseline_s,
        first=policy.baseline_windows,
        budget_days=policy.budget_days,
        weights=weights,
    )


def labels(given: Mapping[str, str]) -> list[str]:
    """A device's labels as names of groups: `site=berlin`."""
    return [f"{key}={value}" for key, value in given.items()]


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
        since, last = 0.0, 0
    elif monitor.document.get("epoch") == target.release and monitor.sketch_id == sketch.sketch_id:
        refresh = policy.refresh_s
        if refresh and now - monitor.document.get("began", now) >= refresh:
            begin_anew(hub, session, monitor, actor="policy", why="the policy renews baselines")
        ahead = [name for name in ("since", "began") if lies_ahead(monitor.document.get(name, 0.0), now)]
        if ahead:  # a clock that ran ahead has written it
            monitor.document = {**monitor.document, **dict.fromkeys(ahead, now)}
        return monitor
    else:
        since, last = now, session.exec(select(func.max(WindowRow.id)).where(WindowRow.model == model)).one() or 0
        alarms.close_all(session, model, f"release {target.release} was promoted")
        if not monitor.document:  # of an earlier version: the windows of this release count from the start
            since, last = 0.0, 0
        records.forget(session, model)
    if monitor.sketch_id != sketch.sketch_id:
        monitor.basis = b""
    monitor.sketch_id, monitor.release, monitor.state, monitor.last_window = (
        sketch.sketch_id, target.release, "waiting", last,
    )  # fmt: skip
    slot_s = monitor.document.get("slot_s", 60.0)
    monitor.document = {"epoch": target.release, "since": since, "began": now, "slot_s": slot_s}
    return monitor


def begin_anew(
    hub: Hub, session: Session, monitor: DriftMonitor, *, actor: str, why: str, devices: list[str] | None = None
) -> int:
    """Begin baselines anew, of some devices or of all streams; returns how many. Open alarms about all are closed."""
    keys = None if devices is None else [("device", name) for name in devices]
    count = records.forget(session, monitor.model, keys)
    if devices is None:
        alarms.close_all(session, monitor.model, why)
        monitor.state = "waiting"
        monitor.document = {**monitor.document, "began": hub.clock()}
        session.add(monitor)
    hub.audit(session, actor, "drift.rebaseline", monitor.model, {"why": why, "streams": count, "devices": devices})
    return count


def _learn_facts(session: Session, monitor: DriftMonitor, now: float) -> None:
    """How many devices there are, and which labels make groups, looked up now and then: it costs by the fleet."""
    facts = monitor.document.get("facts")
    if facts is not None and 0 <= now - facts["at"] < FACTS_S:
        return
    query = select(Device.labels, Device.pins).join(DeviceModel, col(DeviceModel.device_id) == col(Device.id))
    devices = session.exec(query.where(DeviceModel.model == monitor.model, col(Device.revoked_at).is_(None))).all()
    counts = Counter(name for given, _ in devices for name in labels(given))
    groups = [(count, name) for name, count in counts.items() if GROUP_DEVICES <= count < len(devices)]
    chosen = [name for _, name in sorted(groups, reverse=True)[:MOST_GROUPS]]
    pinned = sorted({pins[monitor.model] for _, pins in devices if monitor.model in pins})
    facts = {"at": now, "devices": len(devices), "groups": sorted(chosen), "pinned": pinned}
    monitor.document = {**monitor.document, "facts": facts}


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
