"""The fleet's state as gauges for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.store.tables import Alarm, ChannelRow, Device, DeviceModel, Job, Release, RolloutRow
from cloud_hub.trust.repository import expires_at
from cloud_hub.trust.rows import latest_metadata


class FleetCollector(Collector):
    """The fleet's state, read from the database at each scrape."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """Gauges by state."""
        now = self._hub.clock()
        with self._hub.reading() as session:
            silent = now - self._hub.config.offline_after_s
            alive = (col(Device.revoked_at).is_(None), col(Device.last_seen_at) >= silent)
            total = session.exec(select(func.count()).select_from(Device)).one()
            revoked = session.exec(select(func.count()).where(col(Device.revoked_at).is_not(None))).one()
            online = session.exec(select(func.count()).where(*alive, col(Device.online))).one()
            counts: dict[tuple[str, str, str], dict[str, float]] = {
                ("edgeloop_hub_device_models", "Models on devices", "state"): _grouped(session, DeviceModel.state),
                ("edgeloop_hub_releases", "Releases", "status"): _grouped(session, Release.status),
                ("edgeloop_hub_rollouts", "Rollouts", "state"): _grouped(session, RolloutRow.state),
                ("edgeloop_hub_jobs", "Jobs", "state"): _grouped(session, Job.state),
                ("edgeloop_hub_alarms", "Drift alarms", "status"): _grouped(session, Alarm.status),
            }
            versions = {row.name: float(row.version) for row in session.exec(select(ChannelRow))}
            ends = {role: expires_at(body) - now for role, body in latest_metadata(session).items()}
        devices: dict[str, float] = {"online": online, "offline": total - revoked - online, "revoked": revoked}
        counts["edgeloop_hub_devices", "Devices", "state"] = devices
        counts["edgeloop_hub_channel_version", "Channel versions", "channel"] = versions
        counts["edgeloop_hub_metadata_expires_seconds", "Time until signed metadata expires", "role"] = ends
        for (name, text, label), values in counts.items():
            family = GaugeMetricFamily(name, text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family


def _grouped(session: Any, column: Any) -> dict[str, float]:
    return {key: float(count) for key, count in session.exec(select(column, func.count()).group_by(column))}
