"""Alarms about inputs: one of broken data and one of outliers is open at a time, and names device by device."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift import outliers, quality
from cloud_hub.drift.input_state import DeviceInputs, InputMonitorState, Track
from cloud_hub.drift.outliers import Outliers
from cloud_hub.drift.quality import Key
from cloud_hub.drift.telling import tell
from cloud_hub.store.tables import Alarm, InputMonitor, InputWatch
from fleet.protocol.figures import Told

log = logging.getLogger(__name__)
SHOWN = 200  # findings in an alarm
DEVICES = 3  # that a sentence names
QUALITY, OUTLIERS = "quality", "outliers"  # the kinds, in an alarm's detail
KINDS = (QUALITY, OUTLIERS)


class InputFinding(Struct, frozen=True, kw_only=True):
    """An alarm's finding about one device; `place` and `problem` as in `quality.Key`, `since` in Unix seconds."""

    device: str
    what: str
    share: float
    since: float
    tensor: str = ""
    place: int = quality.WHOLE
    problem: str = ""


def broken(
    device: str, key: Key, track: Track, names: Mapping[str, Sequence[str]], told: Mapping[str, Told]
) -> InputFinding:
    """Return an alarm's finding about a problem."""
    return InputFinding(
        device=device,
        what=quality.words(key, track.now, names, told),
        share=track.now,
        since=track.since,
        tensor=key.tensor,
        place=key.place,
        problem=key.problem,
    )


def outlying(device: str, found: Outliers) -> InputFinding:
    """Return an alarm's finding about a device's outliers."""
    share, normal = found.now or 0.0, found.normal or 0.0
    what = f"{100 * share:.0f} % of the inputs are outlying, {100 * normal:.0f} % at most in an hour of its record"
    return InputFinding(device=device, what=what, share=share, since=found.since)


def raise_or_extend(
    hub: Hub, session: Session, monitor: InputMonitor, kind: str, found: Sequence[InputFinding], limit: float
) -> tuple[int, list[int]]:
    """Record findings in the open alarm of their kind, or in a new one.

    Args:
        hub: for the clock and the audit log.
        session: a writing transaction.
        monitor: the release's.
        kind: of the alarm.
        found: none changes nothing.
        limit: the evidence (log e-value) that they are over.

    Returns:
        The alarm's number, 0 for none, and the numbers of new alarms.
    """
    if not found:
        return 0, []
    alarm = _open(session, monitor.model, monitor.release, kind)
    new = alarm is None
    if alarm is None:
        alarm = Alarm(model=monitor.model, release=monitor.release, at=hub.clock(), status="open", detail={})
    known = msgspec.convert(alarm.detail.get("findings", []), list[InputFinding])
    alarm.detail = _detail(kind, [*known, *found][:SHOWN], limit)
    session.add(alarm)
    tell(hub, session, alarm, new=new)
    log.warning("inputs of %s, release %d: %s", monitor.model, monitor.release, alarm.detail["reason"])
    number = alarm.id or 0
    return number, [number] if new else []


def accept(session: Session, alarm: Alarm) -> None:
    """An operator has closed it: what it named is normal from now on, and speaks again when it becomes more."""
    ours = (InputWatch.model == alarm.model, InputWatch.release == alarm.release)
    for row in session.exec(select(InputWatch).where(*ours)):  # an alarm does not list all that it is about
        device = msgspec.convert(row.document, DeviceInputs)
        for name, track in device.tracks.items():
            if track.alarm == alarm.id:
                accepted = max(track.accepted, track.now)
                device.tracks[name] = Track(since=track.since, now=track.now, accepted=accepted)
        if device.outliers.alarm == alarm.id:
            device.outliers = outliers.accept(device.outliers)
        row.document = msgspec.to_builtins(device)
        session.add(row)


def watched(monitor: InputMonitor) -> tuple[str, str]:
    """Describe the watch over data quality and outliers of a release, in words; a part that is not watched is named."""
    facts = msgspec.convert(monitor.document, InputMonitorState)
    if not facts.windows:
        return "not watched: no window yet", "not watched: no window yet"
    of = f"of {facts.windows} windows"
    quality_ = f"watched: {facts.told} {of} say what inputs held"
    if not facts.told:
        quality_ = f"not watched: none {of} says what inputs held (agents of 0.1)"
    elif not facts.profiled:
        quality_ += "; range and unit are not watched: the release does not say what it was trained on"
    if facts.left_out:
        return quality_, "not watched: a feature only grows, and takes its whole input out of the training data"
    if not facts.sketched:
        return quality_, f"not watched: none {of} says how many inputs are outlying (no sketch, or agents of 0.1)"
    return quality_, f"watched: {facts.sketched} {of}, each device against the record of its first ones (`baseline`)"


def _open(session: Session, model: str, release: int, kind: str) -> Alarm | None:
    ours = (Alarm.model == model, Alarm.release == release, Alarm.status != "closed")
    rows = session.exec(select(Alarm).where(*ours).order_by(col(Alarm.id)))
    return next((row for row in rows if row.detail.get("kind") == kind), None)


def _detail(kind: str, found: Sequence[InputFinding], limit: float) -> dict[str, Any]:
    """The same said of several devices is said once."""
    by_what: defaultdict[tuple[str, int, str], list[InputFinding]] = defaultdict(list)
    for finding in found:
        by_what[finding.tensor, finding.place, finding.problem].append(finding)
    said = [_sentence(part) for part in sorted(by_what.values(), key=lambda part: (-len(part), part[0].what))]
    more = f"; and {len(said) - 3} more findings" if len(said) > 3 else ""
    return {
        "kind": kind,
        "reason": "; ".join(said[:3]) + more,
        "devices": sorted({finding.device for finding in found}),
        "since": min(finding.since for finding in found),
        "findings": msgspec.to_builtins(list(found)),
        "limit": limit,
    }


def _sentence(found: Sequence[InputFinding]) -> str:
    names = sorted({finding.device for finding in found})
    more = f" and {len(names) - DEVICES} more" if len(names) > DEVICES else ""
    since = datetime.fromtimestamp(min(finding.since for finding in found), UTC).strftime("%Y-%m-%d %H:%M")
    worst = max(found, key=lambda finding: finding.share)
    devices = "device" if len(names) == 1 else "devices"
    return f"{worst.what}, on {devices} {', '.join(names[:DEVICES])}{more} since {since} UTC"
