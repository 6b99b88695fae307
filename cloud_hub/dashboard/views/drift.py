"""Drift in the words of the pages."""

from __future__ import annotations

from msgspec import Struct

from cloud_hub.context import Hub
from cloud_hub.dashboard.views.troubles import where
from cloud_hub.drift.monitors import list_alarms, list_monitors
from fleet.api.drift import AlarmInfo, MonitorInfo

ALARMS = 25
DEVICES = 8  # of an alarm, that are named
FEATURES = 6


class AlarmView(Struct, frozen=True, kw_only=True):
    """An alarm: `where` in words; `moved` and `findings` are lines, the devices are names."""

    alarm: AlarmInfo
    where: str
    devices: list[str]
    more: int
    moved: list[str]
    findings: list[tuple[str, str]]


class DriftPage(Struct, frozen=True, kw_only=True):
    """Open alarms, those that are closed, and what is watched, with what is not."""

    unclosed: list[AlarmView]
    closed: list[AlarmView]
    monitors: list[MonitorInfo]


def drift_page(hub: Hub) -> DriftPage:
    """The page's content at this moment."""
    unclosed = list_alarms(hub, unclosed=True, most=ALARMS)
    closed = [alarm for alarm in list_alarms(hub, most=ALARMS) if alarm.status == "closed"]
    return DriftPage(
        unclosed=[view_of(alarm) for alarm in unclosed],
        closed=[view_of(alarm) for alarm in closed],
        monitors=list_monitors(hub, ""),
    )


def view_of(alarm: AlarmInfo) -> AlarmView:
    """An alarm with its parts in words."""
    detail = alarm.detail
    moved = [
        f"{one.name}: {_value(one.before)} → {_value(one.after)} (spread {_value(one.spread_before)})"
        for one in detail.features[:FEATURES]
    ]
    moved += [f"class {one.number}: {100 * one.before:.1f} % → {100 * one.after:.1f} %" for one in detail.classes]
    findings = [(one.device, one.what) for one in detail.findings[:DEVICES]]
    count = max(detail.device_count, len(detail.devices))
    named = detail.devices[:DEVICES]
    return AlarmView(
        alarm=alarm, where=where(alarm), devices=named, more=count - len(named), moved=moved, findings=findings
    )


def _value(number: float | None) -> str:
    return "–" if number is None else f"{number:.4g}"
