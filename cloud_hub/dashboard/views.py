"""What the page shows, gathered from the database. Everything is read in one short transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.dashboard.answers import ModelView, failed, model_views, share
from cloud_hub.devices.status import problem_of, state_of
from cloud_hub.drift.response import described
from cloud_hub.rollouts.engine import read_or_name
from cloud_hub.store.benchmarks import Figures, by_hardware
from cloud_hub.store.tables import (
    Alarm,
    AuditEntry,
    ChannelRow,
    Device,
    DeviceModel,
    DriftMonitor,
    Release,
    RolloutEvent,
    RolloutRow,
    SampleRow,
    WindowRow,
)
from fleet.protocol.channel import Channel, decode_channel
from fleet.rollouts.machine import ENDED, Plan, Progress

DEVICES = 200
RELEASES = 12
ROLLOUTS = 6
EVENTS = 8
ALARMS = 8
AUDIT = 12
WINDOWS = 400  # windows that the counters on top are summed over


class RolloutView(Struct, frozen=True, kw_only=True):
    """A rollout with its documents decoded and its last events."""

    row: RolloutRow
    plan: Plan
    progress: Progress
    events: list[RolloutEvent]

    @property
    def ended(self) -> bool:
        """Whether nothing can happen any more."""
        return self.row.state in ENDED

    @property
    def stages(self) -> list[tuple[str, str]]:
        """Each stage's share in per cent and how it stands: done, now, open or lost."""
        last = "done" if self.row.state == "finished" else "lost" if self.ended else "now"
        return [
            (
                f"{stage.share_ppm / 1e4:g} %",
                "done" if index < self.progress.stage else last if index == self.progress.stage else "open",
            )
            for index, stage in enumerate(self.plan.stages)
        ]


class Overview(Struct, frozen=True, kw_only=True):
    """Everything on the page; `followed` says by an alarm's number what follows it."""

    devices: list[dict[str, Any]]
    releases: list[dict[str, Any]]
    rollouts: list[RolloutView]
    monitors: list[DriftMonitor]
    alarms: list[Alarm]
    followed: dict[int, str]
    audit: list[AuditEntry]
    numbers: list[tuple[str, str]]
    models: list[ModelView]
    now: float


def overview(hub: Hub) -> Overview:
    """The page's content at this moment."""
    now = hub.clock()
    with hub.reading() as session:
        devices = _devices(session, now, hub.config.offline_after_s)
        alarms = list(session.exec(select(Alarm).order_by(col(Alarm.id).desc()).limit(ALARMS)))
        return Overview(
            devices=devices,
            releases=_releases(session),
            rollouts=_rollouts(session),
            monitors=list(session.exec(select(DriftMonitor).order_by(col(DriftMonitor.model)))),
            alarms=alarms,
            followed={alarm.id: alarm.response.sentence for alarm in described(session, alarms) if alarm.response},
            audit=list(session.exec(select(AuditEntry).order_by(col(AuditEntry.id).desc()).limit(AUDIT))),
            numbers=_numbers(session, devices, alarms),
            models=model_views(session),
            now=now,
        )


def _devices(session: Session, now: float, offline_after_s: float) -> list[dict[str, Any]]:
    models: dict[str, list[DeviceModel]] = {}
    for model in session.exec(select(DeviceModel).order_by(col(DeviceModel.model))):
        models.setdefault(model.device_id, []).append(model)
    rows = session.exec(select(Device).order_by(col(Device.id)).limit(DEVICES))
    return [
        {
            "row": row,
            "state": state_of(row, now, offline_after_s),
            "models": models.get(row.id, []),
            **problem_of(row, now)._asdict(),
        }
        for row in rows
    ]


def _releases(session: Session) -> list[dict[str, Any]]:
    uses = release_uses([decode_channel(row.document) for row in session.exec(select(ChannelRow))])
    newest = select(Release).where(Release.status != "reserved").order_by(col(Release.created_at).desc())
    return [
        {
            "row": row,
            "uses": uses.get((row.model, row.number), []),
            "measured": [in_words(found) for found in by_hardware(session, row.model, row.number)],
        }
        for row in session.exec(newest.limit(RELEASES)).all()
    ]


def in_words(found: Figures) -> str:
    """`rpi4: litert-int8 p95 812 µs (3 devices)`."""
    devices = "1 device" if found.devices == 1 else f"{found.devices} devices"
    return f"{found.hardware or 'unnamed'}: {found.variant} p95 {found.p95_us:.4g} µs ({devices})"


def release_uses(channels: Sequence[Channel]) -> dict[tuple[str, int], list[str]]:
    """(model, release) → what channels use it for, in words."""
    uses: dict[tuple[str, int], list[str]] = {}
    for channel in channels:
        for model, entry in channel.models.items():
            uses.setdefault((model, entry.release), []).append(f"default of {channel.channel}")
            if entry.rollout is not None:
                uses.setdefault((model, entry.rollout.release), []).append(f"rolling out on {channel.channel}")
            if entry.audit.auditor is not None:
                uses.setdefault((model, entry.audit.auditor), []).append(f"auditor of {channel.channel}")
    return uses


def _rollouts(session: Session) -> list[RolloutView]:
    rows = session.exec(select(RolloutRow).order_by(col(RolloutRow.created_at).desc()).limit(ROLLOUTS))
    readable = [(row, *read_or_name(row)) for row in rows]
    return [
        RolloutView(
            row=row,
            plan=plan,
            progress=progress,
            events=list(
                session.exec(
                    select(RolloutEvent)
                    .where(RolloutEvent.rollout == row.id)
                    .order_by(col(RolloutEvent.id).desc())
                    .limit(EVENTS)
                )
            ),
        )
        for row, plan, progress in readable
    ]


def _numbers(session: Session, devices: list[dict[str, Any]], alarms: list[Alarm]) -> list[tuple[str, str]]:
    """The figures on top: name and value."""
    bodies = session.exec(select(WindowRow.body).order_by(col(WindowRow.id).desc()).limit(WINDOWS))
    counters: dict[str, int] = {}
    for body in bodies:
        for name, value in body.get("counters", {}).items():
            counters[name] = counters.get(name, 0) + value
    requests = counters.get("requests", 0)
    samples = session.exec(select(SampleRow.id).limit(10_001)).all()
    return [
        ("devices online", f"{sum(d['state'] == 'online' for d in devices)} of {len(devices)}"),
        ("recent requests", f"{requests:,}"),
        ("answered by edge", share(counters.get("edge", 0), requests)),
        ("auditor agrees", share(counters.get("audit_agree", 0), counters.get("audited", 0))),
        ("failed", failed(counters)),
        ("samples", f"{len(samples):,}" if len(samples) <= 10_000 else "over 10,000"),
        ("open alarms", str(sum(alarm.status == "open" for alarm in alarms))),
    ]


def ago(at: float | None, now: float) -> str:
    """`12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`."""
    if at is None:
        return "never"
    seconds = max(0.0, now - at)
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds:.0f} s ago"
