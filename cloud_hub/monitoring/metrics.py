"""The fleet's state as gauges for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func
from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.devices.status import count_states
from cloud_hub.drift import monitors
from cloud_hub.store.events import counts
from cloud_hub.store.tables import Alarm, ChannelRow, DeviceModel, Job, Release, RolloutRow
from cloud_hub.trust.repository import expires_at
from cloud_hub.trust.rows import latest_metadata
from fleet.api.events import DeliveryState

DELIVERY_STATES = get_args(DeliveryState)


class FleetCollector(Collector):
    """The fleet's state, read from the database at each scrape."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """Gauges by state."""
        now = self._hub.clock()
        with self._hub.reading() as session:
            devices: dict[str, float] = {
                name: float(count)
                for name, count in count_states(session, now, self._hub.config.offline_after_s).items()
            }
            counts: dict[tuple[str, str, str], dict[str, float]] = {
                ("edgeloop_hub_device_models", "Models on devices", "state"): _grouped(session, DeviceModel.state),
                ("edgeloop_hub_releases", "Releases", "status"): _grouped(session, Release.status),
                ("edgeloop_hub_rollouts", "Rollouts", "state"): _grouped(session, RolloutRow.state),
                ("edgeloop_hub_jobs", "Jobs", "state"): _grouped(session, Job.state),
                ("edgeloop_hub_alarms", "Drift alarms", "status"): _grouped(session, Alarm.status),
            }
            watched, deliveries = _watched(session, now), _deliveries(session, self._hub.config.events.targets)
            versions = {row.name: float(row.version) for row in session.exec(select(ChannelRow))}
            ends = {role: expires_at(body) - now for role, body in latest_metadata(session).items()}
        counts["edgeloop_hub_devices", "Devices", "state"] = devices
        counts["edgeloop_hub_channel_version", "Channel versions", "channel"] = versions
        counts["edgeloop_hub_metadata_expires_seconds", "Time until signed metadata expires", "role"] = ends
        for (name, text, label), values in counts.items():
            family = GaugeMetricFamily(name, text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
        yield watched
        yield deliveries


def _grouped(session: Any, column: Any) -> dict[str, float]:
    return {key: float(count) for key, count in session.exec(select(column, func.count()).group_by(column))}


def _deliveries(session: Session, targets: Iterable[str]) -> GaugeMetricFamily:
    """Events on their way to targets; none is 0, since an alert sees no growth in a series that only just begins."""
    family = GaugeMetricFamily("edgeloop_hub_event_deliveries", "Deliveries of events", labels=["target", "state"])
    nothing = {(target, state): 0 for target in targets for state in DELIVERY_STATES}
    for key, count in {**nothing, **counts(session)}.items():
        family.add_metric(list(key), float(count))
    return family


def _watched(session: Session, now: float) -> GaugeMetricFamily:
    """1 for each release that is watched, or not any more, with the state of its monitor."""
    family = GaugeMetricFamily("edgeloop_hub_drift_monitors", "Drift monitors", labels=["model", "release", "state"])
    for info in monitors.states_of(session, now):
        family.add_metric([info.model, str(info.release), info.state], 1.0)
    return family
