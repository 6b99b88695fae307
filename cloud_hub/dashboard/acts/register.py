"""Every act of the dashboard."""

from __future__ import annotations

from cloud_hub.dashboard.acts import alarms, devices, events, labelling, orders, releases, rollouts, tokens
from cloud_hub.dashboard.acts.forms import Act

ACTS: list[Act] = [
    *rollouts.acts(),
    *orders.acts(),
    *releases.acts(),
    *labelling.acts(),
    *alarms.acts(),
    *devices.acts(),
    *events.acts(),
    *tokens.acts(),
]
