"""A device's vital signs in a month, as charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from sqlmodel import Session

from cloud_hub.context import Hub
from cloud_hub.dashboard.views.charts import Axis, Chart, drawn
from cloud_hub.devices.vitals import hours
from cloud_hub.store.tables import Device
from fleet.api.vitals import HOT_CELSIUS, VitalsHour
from fleet.protocol.durations import DAY_S, HOUR_S

DAYS = 30
HOURS = DAYS * 24 + 1


class NamedChart(Struct, frozen=True, kw_only=True):
    """A chart and its title."""

    title: str
    chart: Chart


def month_of(hub: Hub, session: Session, device: Device, now: float) -> list[NamedChart]:
    """Return a chart of each kind of number that the machine has told in the last 30 days."""
    ends = (int(now) // HOUR_S + 1) * HOUR_S
    begins = ends - DAYS * DAY_S
    told = hours(hub, session, device, begins - 1, HOURS)
    share, heat = Axis(begins, ends, 1.0, _percent), Axis(begins, ends, HOT_CELSIUS, _celsius)
    charts = (
        ("Busy share of its cores", share, {"mean": _values(told, "cpu"), "highest": _values(told, "cpu_most")}),
        ("Share that is free", share, {"memory": _free(told, "memory"), "disk": _free(told, "disk")}),
        ("Hottest sensor", heat, {"temperature": _values(told, "celsius")}),
    )
    return [
        NamedChart(title=title, chart=drawn(series, axis, span_s=HOUR_S))
        for title, axis, series in charts
        if any(series.values())
    ]


def _values(told: Sequence[VitalsHour], name: str) -> Mapping[int, float]:
    found = {hour.begins: getattr(hour, name) for hour in told}
    return {at: value for at, value in found.items() if value is not None}


def _free(told: Sequence[VitalsHour], name: str) -> Mapping[int, float]:
    """Return the free share of a memory or disk, of hours that told both its size and what was free."""
    both = {hour.begins: (getattr(hour, f"{name}_free"), getattr(hour, name)) for hour in told}
    return {at: free / whole for at, (free, whole) in both.items() if free is not None and whole}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _celsius(degrees: float) -> str:
    return f"{degrees:.0f} °C"
