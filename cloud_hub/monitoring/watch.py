"""Tells people when a part of the hub stops working: whoever only asks `/readyz` learns it by asking."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cloud_hub.context import Hub
from cloud_hub.events import outbox
from cloud_hub.events.standing import Standing, looked
from cloud_hub.monitoring.health import HubHealth
from cloud_hub.ports import Part
from cloud_hub.services.supervisor import Service

LOOK_S = 15.0


class HubWatch:
    """Tells which part of this hub has not worked for a while, and that it works again. Each of several hubs does."""

    name = "events-hub"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._standing: Mapping[str, Standing] = {}

    async def run(self) -> None:
        """Until cancelled."""
        health = HubHealth(self._hub)
        try:
            while True:
                parts = await health.look()
                if parts["database"].state == "ok":  # else there is nowhere to write
                    await asyncio.to_thread(self.look, parts)
                await asyncio.sleep(LOOK_S)
        finally:
            health.close()

    def look(self, parts: Mapping[str, Part]) -> None:
        """Write down what changed."""
        now, where = self._hub.clock(), self._hub.config.addresses.http_connect
        standing, events = looked(self._standing, parts, now, where=where)
        if events:
            with self._hub.session() as session:
                for event in events:
                    outbox.record(session, event, now)
        self._standing = standing  # only now: what could not be written is found again


def services(hub: Hub) -> list[Service]:
    """The services of this module."""
    return [HubWatch(hub)]
