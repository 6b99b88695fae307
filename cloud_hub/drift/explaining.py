"""Adds to an alarm which features moved on the devices that it names, from the windows before and after its moment."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift import features, left_out
from cloud_hub.drift.input_alarms import QUALITY
from cloud_hub.drift.input_state import feature_of
from cloud_hub.drift.profiles import profile_of
from cloud_hub.store.tables import Alarm, DriftMonitor, Release, WindowRow, WindowSum
from cloud_hub.store.windows import sums_before
from fleet.protocol.figures import planned_figures
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.telemetry import InputSummary

WINDOWS = 60  # before and after, each
NEWEST = 20  # of those after, where the alarm does not know its moment
DEVICES = 200
UNKNOWN = "which features moved is not known: no window before or after says what its inputs held"


def name_features(hub: Hub, alarm: int) -> None:
    """Write into the alarm's detail what moved (`features`), and the largest into its `reason`; or why nothing is."""
    with hub.reading() as session:
        row = session.get_one(Alarm, alarm)
        if row.detail.get("kind") == QUALITY:  # that says it itself
            return
        release = session.get(Release, (row.model, row.release))
        if release is None or not release.manifest:
            return
        manifest = decode_manifest(release.manifest)
        before, after = _windows(session, row)
        monitor = session.get(DriftMonitor, (row.model, row.release))
        left = left_out.read(monitor) if monitor is not None else None
    profile = profile_of(hub, manifest)
    names = profile.names if profile is not None else {}
    apart = {feature_of(name) for name in left.names} if left is not None else set()
    found = features.moved(before, after, planned_figures(manifest.inputs), names, apart)
    words = f"most moved: {features.in_words(found)}" if found else "no feature moved by itself"
    if not any(before) or not any(after):
        words = UNKNOWN
    with hub.session() as session:
        row = session.get_one(Alarm, alarm)
        reason = f"{row.detail.get('reason', '')}; {words}"
        row.detail = {**row.detail, "reason": reason, "features": msgspec.to_builtins(found)}
        session.add(row)


def _windows(session: Session, alarm: Alarm) -> tuple[list[Sequence[InputSummary]], list[Sequence[InputSummary]]]:
    query = select(WindowRow).where(WindowRow.model == alarm.model, WindowRow.release == alarm.release)
    devices = alarm.detail.get("devices") or []
    few = devices if len(devices) <= DEVICES else []
    if few:
        query = query.where(col(WindowRow.device_id).in_(few))
    newest = query.order_by(col(WindowRow.ended_at).desc())
    since = alarm.detail.get("since")
    if since is None:
        recent = session.exec(newest.limit(NEWEST)).all()
        since = min((row.started_at for row in recent), default=alarm.at)
    after = session.exec(newest.where(WindowRow.started_at >= since).limit(WINDOWS)).all()
    before = session.exec(newest.where(WindowRow.ended_at <= since).limit(WINDOWS)).all()
    known: list[WindowRow | WindowSum] = [*before]
    known += sums_before(session, alarm.model, alarm.release, few, since, WINDOWS - len(before))
    return [_summaries(row) for row in known], [_summaries(row) for row in after]


def _summaries(row: WindowRow | WindowSum) -> tuple[InputSummary, ...]:
    return msgspec.convert(row.body.get("inputs", ()), tuple[InputSummary, ...])
