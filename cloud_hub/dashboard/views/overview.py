"""The content of the first page: troubles first, then the work that is going on."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from sqlmodel import Session

from cloud_hub.context import Hub
from cloud_hub.dashboard.views.traffic import TrafficView, traffic_view
from cloud_hub.dashboard.views.troubles import Trouble, troubles
from cloud_hub.dashboard.words import failed, share
from cloud_hub.devices.status import count_states
from cloud_hub.identity.audit_log import list_records
from cloud_hub.ingest import traffic
from cloud_hub.ports import Part
from cloud_hub.rollouts.orders import list_rollouts
from fleet.api.audit import AuditRecord
from fleet.api.devices import DeviceState
from fleet.api.rollouts import RolloutInfo
from fleet.protocol.durations import DAY_S

ROLLOUTS = 5
AUDIT = 8


class Overview(Struct, frozen=True, kw_only=True):
    """Everything on the page; `fleet` counts all devices, `numbers` are name, value and where more is."""

    fleet: int
    troubles: list[Trouble]
    rollouts: list[RolloutInfo]
    audit: list[AuditRecord]
    numbers: list[tuple[str, str, str]]
    traffic: TrafficView


def overview(hub: Hub, parts: Mapping[str, Part]) -> Overview:
    """The page's content at this moment; `parts` is how the hub itself stands."""
    found = troubles(hub, parts)
    with hub.reading() as session:
        states = count_states(session, hub.clock(), hub.config.offline_after_s)
        numbers = _numbers(session, states, hub.clock())
    return Overview(
        fleet=sum(states.values()),
        troubles=found,
        rollouts=list_rollouts(hub, limit=ROLLOUTS).items,
        audit=list_records(hub, limit=AUDIT, newest=True).items,
        numbers=numbers,
        traffic=traffic_view(hub, 7),
    )


def _numbers(session: Session, states: Mapping[DeviceState, int], now: float) -> list[tuple[str, str, str]]:
    """The figures on top. What failed was counted window by window: of sums, one device that claims more answers than
    requests would hide what failed on all others."""
    rows = traffic.hours(session, now - DAY_S)
    names = ("requests", "edge", "cloud", "audited", "failed", "refused")
    counts = {name: sum(getattr(row, name) for row in rows) for name in names}
    return [
        ("devices online", f"{states['online']:,} of {sum(states.values()):,}", "/devices"),
        ("offline", f"{states['offline']:,}", "/devices?state=offline"),
        ("requests in a day", f"{counts['requests']:,}" if rows else "nothing counted", "/models"),
        ("answered on devices", share(counts["edge"], counts["requests"]), "/models"),
        ("failed or refused", failed(counts["failed"], counts["refused"], counted=bool(rows)), "/models"),
        ("calls to the cloud", f"{counts['cloud'] + counts['audited']:,}", "/models"),
    ]
