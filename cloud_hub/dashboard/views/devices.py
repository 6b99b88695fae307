"""Devices in the words of the pages."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.dashboard.views.charts import Chart, stacked
from cloud_hub.dashboard.views.traffic import KINDS
from cloud_hub.dashboard.views.vitals import NamedChart, month_of
from cloud_hub.devices import status
from cloud_hub.devices.answers import newest_answer
from cloud_hub.identity.audit_log import list_records
from cloud_hub.ingest.summing import beginning
from cloud_hub.ingest.traffic import unanswered
from cloud_hub.store.tables import ChannelRow, SampleRow, WindowRow, WindowSum
from fleet.api.audit import AuditFilter, AuditRecord
from fleet.api.devices import DeviceDetail, DeviceEventInfo
from fleet.api.diagnosis import Finding, findings
from fleet.api.vitals import vitals_in_words
from fleet.protocol.durations import DAY_S
from fleet.protocol.messages import AgentReport, CommandResult, ModelReport

DAYS = 30
AUDIT = 20
WINDOWS = 20_000  # of one device, that are counted for the days that have no sum yet
AT_ONCE = 500  # windows in memory


class DevicePage(Struct, frozen=True, kw_only=True):
    """One device: what is ill with it by what it said (when that came: `asked_at`), its month, its `samples` by model.
    There were more requests than the month shows before `lacks_before`, where it had too many windows to be read.
    `machine` is how its machine does, in words by what they are about, and `machine_month` how it did in the month."""

    device: DeviceDetail
    findings: list[Finding]
    asked_at: float | None
    month: Chart | None
    lacks_before: float | None
    audit: list[AuditRecord]
    samples: list[tuple[str, int]]
    machine: dict[str, str]
    machine_month: list[NamedChart]


def device_page(hub: Hub, device_id: str, *, month: bool) -> DevicePage:
    """One device; NotFoundError when there is none. Its `month` costs thousands of rows, and is left out on demand."""
    device, now = status.detail(hub, device_id), hub.clock()
    with hub.reading() as session:
        answer = newest_answer(session, device_id, "diagnose")
        counted = select(SampleRow.model, func.count()).where(SampleRow.device_id == device_id)
        samples = session.exec(counted.where(col(SampleRow.deleted_at).is_(None)).group_by(SampleRow.model)).all()
        chart, lacks_before = _month(session, device_id, now) if month else (None, None)
        charts = month_of(hub, session, status.find_device(session, device_id), now) if month else []
    said: Mapping[str, Any] = answer.data if answer is not None else {}
    return DevicePage(
        device=device,
        findings=findings(device, said, now),
        asked_at=answer.received_at if answer is not None else None,
        month=chart,
        lacks_before=lacks_before,
        audit=list_records(hub, AuditFilter(subject=device_id), limit=AUDIT, newest=True).items,
        samples=[(model, count) for model, count in samples],
        machine=vitals_in_words(device.vitals),
        machine_month=charts,
    )


def channels(hub: Hub) -> list[str]:
    """The names of all channels."""
    with hub.reading() as session:
        return list(session.exec(select(ChannelRow.name).order_by(col(ChannelRow.name))))


def _month(session: Session, device_id: str, now: float) -> tuple[Chart, float | None]:
    """Requests by day, out of sums and of the windows that have none yet; before when they are not all of them."""
    ends = (int(now) // DAY_S + 1) * DAY_S
    begins = ends - DAYS * DAY_S
    days: dict[int, Counter[str]] = defaultdict(Counter)
    met, oldest = 0, now
    for at, body in session.exec(_sums(device_id, begins)):
        _count(days, at, body)
    for ended_at, body in session.exec(_windows(device_id), execution_options={"yield_per": AT_ONCE}):
        met, oldest = met + 1, ended_at
        _count(days, beginning(ended_at, now, DAY_S), body)
    chart = stacked(days, KINDS, begins=begins, ends=ends, span_s=DAY_S)
    return chart, oldest if met == WINDOWS else None


def _sums(device_id: str, begins: int) -> Any:
    rows = select(WindowSum.begins, WindowSum.body)
    return rows.where(WindowSum.device_id == device_id, WindowSum.begins >= begins)


def _windows(device_id: str) -> Any:
    """Those that have no sum yet, the newest first."""
    rows = select(WindowRow.ended_at, WindowRow.body).where(WindowRow.device_id == device_id)
    return rows.order_by(col(WindowRow.id).desc()).limit(WINDOWS)


def _count(days: dict[int, Counter[str]], at: int, body: Mapping[str, Any]) -> None:
    counters = body.get("counters", {})
    values = (counters.get("edge", 0), counters.get("cloud", 0), unanswered(counters))
    days[at // DAY_S * DAY_S].update(dict(zip(KINDS, values, strict=True)))


def event_in_words(event: DeviceEventInfo) -> str:
    """A report in one line."""
    report = event.report
    if isinstance(report, ModelReport):
        to = f" to release {report.target}" if report.target is not None and report.target != report.active else ""
        why = f": {report.reason} {report.detail}".rstrip() if report.reason else ""
        return f"{report.model}: {report.state.replace('_', ' ')}{to}, serving {report.active or 'nothing'}{why}"
    if isinstance(report, AgentReport):
        problem = f", problem: {report.problem}" if report.problem else ""
        return f"agent {report.agent} on channel {report.channel}, clock {report.clock}{problem}"
    if isinstance(report, CommandResult):
        return f"answered {report.kind or 'a command'}{'' if report.ok else ' with a failure'} {report.detail}".rstrip()
    return f"{event.kind}, in a form that this hub does not know"
