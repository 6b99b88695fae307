"""The beginning of a release's baselines: with its first windows, when it becomes a default, on request, by policy.
Windows of the time before are no part of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlmodel import Session

from cloud_hub.clock import lies_ahead
from cloud_hub.context import Hub
from cloud_hub.drift import alarms, records, silence
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.scope import CheckedRelease
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import DriftMonitor
from cloud_hub.store.uncounted import AWAITED
from cloud_hub.store.windows import newest_window
from fleet.protocol.manifest import SketchRef

SLOT_S = 60.0  # where no window says how often they come
LATE_S = 7 * 86_400.0  # a window that tells of a time before a new baseline is late; after so long its clock is wrong


def current(hub: Hub, session: Session, target: CheckedRelease, sketch: SketchRef, policy: DriftPolicy) -> DriftMonitor:
    """Return the release's monitor, begun anew when it has become a default, or when its baselines are to be renewed.

    Its `epoch` is the target's `since`: it only tells one beginning from another.
    """
    now, model, release = hub.clock(), target.model, target.release
    lock_name(session, f"drift:{model}")  # also the operator who closes its alarm, and a monitor that has no row yet
    monitor = session.get(DriftMonitor, (model, release))
    if monitor is None:
        monitor = DriftMonitor(model=model, release=release, sketch_id=sketch.sketch_id, state="", updated_at=now)
        _begin(session, monitor, target, now)
    elif _epoch_of(monitor, target) != target.served.since or monitor.sketch_id != sketch.sketch_id:
        alarms.close_all(session, model, release, f"release {release} was promoted")
        records.forget(session, model, release)
        same = monitor.sketch_id == sketch.sketch_id and not monitor.document.get("left_out")
        monitor.basis = monitor.basis if same else b""
        monitor.sketch_id = sketch.sketch_id
        _begin(session, monitor, target, now)
        # What a device kept of the first stage, and sends later, is of the time before, too.
        monitor.document = {**monitor.document, "anew": monitor.document["since"]}
    else:
        # One of an earlier version heard something now, as far as anybody knows.
        monitor.document = {silence.HEARD: now, **monitor.document, "epoch": target.served.since}
        due = policy.refresh_s and now - monitor.document.get("began", now) >= policy.refresh_s
        if due and alarms.open_alarm(session, model, release) is None:  # what an alarm names is not usual
            begin_anew(hub, session, monitor, actor="policy", why="the policy renews baselines")
        ahead = [
            name
            for name in ("since", "began", "anew", silence.HEARD)
            if lies_ahead(monitor.document.get(name, 0.0), now)
        ]
        if ahead:  # a clock that ran ahead has written it
            monitor.document = {**monitor.document, **dict.fromkeys(ahead, now)}
    return monitor


def _epoch_of(monitor: DriftMonitor, target: CheckedRelease) -> float | None:
    """Return the beginning that the monitor counts from. An older hub beside this one writes the number of its
    release instead, which begins nothing."""
    epoch: float | None = monitor.document.get("epoch")
    return target.served.since if epoch == target.release else epoch


def _begin(session: Session, monitor: DriftMonitor, target: CheckedRelease, now: float) -> None:
    """Of the first look at a model, the windows that are there count; later, those from now on."""
    since = target.served.since
    slot_s = monitor.document.get("slot_s", SLOT_S) if monitor.document else SLOT_S
    monitor.state, monitor.last_window = "waiting", newest_window(session, target.model) if since else 0
    monitor.document = {"epoch": since, "since": min(since, now), "began": now, "slot_s": slot_s, silence.HEARD: now}
    monitor.document["from"] = monitor.last_window


def begin_anew(
    hub: Hub, session: Session, monitor: DriftMonitor, *, actor: str, why: str, devices: list[str] | None = None
) -> int:
    """Begin baselines anew, of some devices or of all streams of a release; then its open alarms are closed.

    Args:
        hub: for the clock and the audit log.
        session: a writing transaction.
        monitor: the release's.
        actor: as in the audit log.
        why: in words, kept in the closed alarms.
        devices: None for all streams.

    Returns:
        The number of streams.
    """
    keys = None if devices is None else [("device", name) for name in devices]
    model, release, now = monitor.model, monitor.release, hub.clock()
    count = records.forget(session, model, release, keys)
    if devices is None:
        alarms.close_all(session, model, release, why)
        monitor.state, monitor.last_window = "waiting", newest_window(session, model)
        began = {"since": now, "began": now, "anew": now, "anew_of": {}, "from": monitor.last_window}
        monitor.document = {**monitor.document, **began, AWAITED: []}
    else:
        known = {name: at for name, at in monitor.document.get("anew_of", {}).items() if now - at < LATE_S}
        monitor.document = {**monitor.document, "anew_of": {**known, **dict.fromkeys(devices, now)}}
    session.add(monitor)
    told = {"why": why, "release": release, "streams": count, "devices": devices}
    hub.audit(session, actor, "drift.rebaseline", model, told)
    return count


def begun_anew(document: Mapping[str, Any], devices: Iterable[str], now: float) -> dict[str, float]:
    """Return the moments at which baselines were begun anew on request, by device: its windows count from then on. A
    moment is forgotten after `LATE_S`; one that lies ahead was written by a clock that ran ahead."""
    whole, some = document.get("anew", 0.0), document.get("anew_of", {})
    found = {name: max(whole, some.get(name, 0.0)) for name in devices}
    return {name: at for name, at in found.items() if at and now - at < LATE_S and not lies_ahead(at, now)}
