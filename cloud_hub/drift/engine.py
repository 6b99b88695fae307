"""From telemetry windows to monitors and alarms: one monitor per model, stepped under a lease.

    waiting → baseline → watching → alarmed
                 ↑__________________/   when a release trained on a newer snapshot is promoted

A monitor belongs to an epoch: the dataset snapshot that the channel's default release was trained
on. A new release of the same epoch changes nothing in what is compared, since the encoder is the
model's; a retrained one makes a new baseline from the windows that began after its promotion.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import msgspec
from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.clock import lies_ahead
from cloud_hub.context import Hub
from cloud_hub.drift import detector, truth
from cloud_hub.drift.detector import Baseline, Bet, Detector, DeviceWindow
from cloud_hub.drift.explain import Summary, explain, summarize
from cloud_hub.drift.policy import DriftPolicy, policy_of
from cloud_hub.drift.response import follow, respond
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.services.supervisor import Service
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, ChannelRow, DriftMonitor, Model, Release, WindowRow
from fleet.protocol.channel import decode_channel
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Manifest, decode_manifest
from fleet.protocol.messages import SketchData

log = logging.getLogger(__name__)
BATCH = 500  # windows per step and model
DAY_S = 86_400.0


class Watch(Struct, frozen=True, kw_only=True):
    """What a monitor is while it watches (and while it is alarmed)."""

    baseline: Baseline
    normal: Summary
    detector: Detector = Detector()
    recent: tuple[Bet, ...] = ()
    seen: tuple[Summary, ...] = ()
    windows_per_day: float = 1.0


class DriftEngine(PeriodicService):
    """Steps every model's monitor every `engines.drift_tick_s` seconds."""

    name = "drift"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, hub.config.engines.drift_tick_s)

    def look(self) -> None:
        """Count the new windows of every model on a channel."""
        with self._hub.reading() as session:
            defaults = _defaults(session)
        for model, release in sorted(defaults.items()):
            for alarm in (self._step_model(model, release), self._step_meaning(model, release)):
                if alarm is not None:
                    respond(self._hub, model, alarm)
        follow(self._hub)

    def _step_model(self, model: str, release: int) -> int | None:
        """Returns the number of a new alarm."""
        hub = self._hub
        with hub.session() as session:
            row, manifest = session.get(Release, (model, release)), None
            if row is not None and row.manifest:
                manifest = decode_manifest(row.manifest)
            if manifest is None or manifest.sketch is None:
                return None
            owner = session.get(Model, model)
            policy = policy_of(owner.policy if owner is not None else {})
            monitor = _current(session, model, release, manifest, hub.clock())
            alarm = self._count(session, monitor, manifest, policy)
            monitor.updated_at = hub.clock()
            session.add(monitor)
            session.flush()
            return alarm.id if alarm is not None else None

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

    def _count(self, session: Session, monitor: DriftMonitor, manifest: Manifest, policy: DriftPolicy) -> Alarm | None:
        rows = _new_windows(session, monitor, policy.min_count)
        for row in rows:
            if monitor.state in ("waiting", "baseline"):
                if row.started_at >= monitor.document.get("since", 0.0):
                    _collect(monitor, row)
                if len(monitor.document["rows"]) >= policy.baseline_windows:
                    assert manifest.sketch is not None
                    _freeze(session, monitor, manifest.sketch.margin, policy.baseline_windows)
            elif monitor.state == "watching" and (alarm := self._watch(session, monitor, row, policy)) is not None:
                monitor.last_window = row.id or 0
                return alarm
            monitor.last_window = row.id or 0
        return None

    def _watch(self, session: Session, monitor: DriftMonitor, row: WindowRow, policy: DriftPolicy) -> Alarm | None:
        watch = msgspec.convert(monitor.document["watch"], Watch)
        try:
            after, result = detector.bet(watch.baseline, watch.detector, _window(row))
        except MalformedError as error:  # one device's window must not end the watch over the others
            log.warning("a window of %s on %s is left out: %s", row.model, row.device_id, error)
            return None
        watch = msgspec.structs.replace(
            watch, detector=after, recent=(*watch.recent, result)[-20:], seen=(*watch.seen, summarize([row]))[-20:]
        )
        _keep(monitor, watch)
        limit = detector.threshold(policy.budget_days, watch.windows_per_day)
        monitor.document = {**monitor.document, "limit": limit}
        if result.log_e < limit:
            return None
        detail = explain(watch.baseline, watch.normal, watch.recent, watch.seen, result.log_e, limit)
        alarm = Alarm(model=monitor.model, release=monitor.release, at=self._hub.clock(), status="open", detail=detail)
        monitor.state = "alarmed"
        session.add(alarm)
        self._hub.audit(session, "drift", "alarm.raise", monitor.model, {"reason": detail["reason"]})
        log.warning("drift of %s: %s", monitor.model, detail["reason"])
        return alarm


def _defaults(session: Session) -> dict[str, int]:
    """Each model's newest default release over all channels."""
    found: dict[str, int] = {}
    for row in session.exec(select(ChannelRow)):
        for model, entry in decode_channel(row.document).models.items():
            found[model] = max(found.get(model, 0), entry.release)
    return found


def _current(session: Session, model: str, release: int, manifest: Manifest, now: float) -> DriftMonitor:
    """The model's monitor, begun anew when its epoch or its sketch has changed."""
    assert manifest.sketch is not None
    epoch, sketch_id = manifest.lineage.snapshot, manifest.sketch.sketch_id
    lock_name(session, f"drift:{model}")  # also the operator who closes its alarm, and a monitor that has no row yet
    monitor = session.get(DriftMonitor, model)
    if monitor is not None and monitor.document.get("epoch") == epoch and monitor.sketch_id == sketch_id:
        monitor.release = release
        if lies_ahead(monitor.document.get("since", 0.0), now):  # no window would begin after it for long
            monitor.document = {**monitor.document, "since": now}
        return monitor
    if monitor is None:
        monitor = DriftMonitor(model=model, sketch_id=sketch_id, release=release, state="waiting", updated_at=now)
        since, last = 0.0, 0
    else:
        since = now
        last = session.exec(select(func.max(WindowRow.id)).where(WindowRow.model == model)).one() or 0
        _close_alarms(session, model, f"release {release} was promoted")
    monitor.sketch_id, monitor.release, monitor.state, monitor.last_window = sketch_id, release, "waiting", last
    monitor.document = {"epoch": epoch, "since": since, "rows": []}
    return monitor


def _close_alarms(session: Session, model: str, why: str) -> None:
    for alarm in session.exec(select(Alarm).where(Alarm.model == model, Alarm.status != "closed")):
        if alarm.detail.get("kind") == truth.KIND:  # that follows the release, not the encoder
            continue
        alarm.status = "closed"
        alarm.detail = {**alarm.detail, "closed": why}
        session.add(alarm)


def _new_windows(session: Session, monitor: DriftMonitor, min_count: int) -> list[WindowRow]:
    rows = (
        select(WindowRow)
        .where(WindowRow.model == monitor.model, col(WindowRow.id) > monitor.last_window)
        .where(WindowRow.sketch_id == monitor.sketch_id, WindowRow.sketch_count >= min_count)
        .order_by(col(WindowRow.id))
        .limit(BATCH)
    )
    return list(session.exec(rows))


def _collect(monitor: DriftMonitor, row: WindowRow) -> None:
    monitor.state = "baseline"
    monitor.document = {**monitor.document, "rows": [*monitor.document["rows"], row.id]}


def _freeze(session: Session, monitor: DriftMonitor, margin: float, enough: int) -> None:
    """Make the baseline from the collected windows and begin to watch.

    Sketches of one encoder have one size: windows whose sketch has another than most are let go, and others awaited.
    """
    rows = list(session.exec(select(WindowRow).where(col(WindowRow.id).in_(monitor.document["rows"]))))
    size, _ = Counter(len(row.sketch) for row in rows).most_common(1)[0]
    if any(len(row.sketch) != size for row in rows):
        rows = [row for row in rows if len(row.sketch) == size]
        monitor.document = {**monitor.document, "rows": [row.id for row in rows]}
        if len(rows) < enough:
            return
    span = max(row.ended_at for row in rows) - min(row.started_at for row in rows)
    watch = Watch(
        baseline=detector.make_baseline([_window(row) for row in rows], margin),
        normal=summarize(rows),
        windows_per_day=len(rows) * DAY_S / max(span, 1.0),
    )
    monitor.state = "watching"
    monitor.document = {"epoch": monitor.document["epoch"], "since": monitor.document["since"]}
    _keep(monitor, watch)


def _keep(monitor: DriftMonitor, watch: Watch) -> None:
    document: dict[str, Any] = msgspec.to_builtins(watch)
    monitor.document = {**monitor.document, "watch": document, "baseline": document["baseline"]["sketch"]}


def _window(row: WindowRow) -> DeviceWindow:
    data = SketchData(sketch_id=row.sketch_id, count=row.sketch_count, sums=row.sketch)
    return DeviceWindow(device_id=row.device_id, sketch=data)


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    return [DriftEngine(hub)]
