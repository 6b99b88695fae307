"""The services that keep signed metadata from expiring, and show what could not be shown at once."""

from __future__ import annotations

import asyncio
import logging

from cloud_hub.context import Hub
from cloud_hub.errors import UnreachableError
from cloud_hub.services.supervisor import Service
from cloud_hub.trust.collecting import Collector

log = logging.getLogger(__name__)
LOOK_EVERY_S = 3600.0
CATCH_UP_S = 2.5  # twice that after the store is back, an order to halt is shown


class Refresher:
    """Recovers the store once, then signs anew whatever is due, looking once an hour."""

    name = "refresher"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.to_thread(self._hub.publisher.recover)
        pause = min(LOOK_EVERY_S, self._hub.config.expiry.refresh_s)
        while True:
            roles = await asyncio.to_thread(self._hub.publisher.refresh)
            if roles:
                log.info("signed anew: %s", ", ".join(roles))
            await asyncio.to_thread(self._warn)
            await asyncio.sleep(pause)

    def _warn(self) -> None:
        days = self._hub.config.expiry.warn_days
        for role, end in self._hub.publisher.expiring(within_days=days).items():
            left = (end - self._hub.clock()) / 86_400
            log.warning(
                "signed role %s expires in %.0f days; run: cloud-hub keys renew DIR --offline-keys DIR2", role, left
            )


class CatchUp:
    """Shows what was committed and is not shown, whichever hub it was that did not get that far."""

    name = "catch-up"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(CATCH_UP_S)

    def look(self) -> None:
        """Look once."""
        try:
            self._hub.publisher.catch_up()
        except UnreachableError as error:  # whoever asked for it was told so; the next look tries again
            log.warning("what was published is not shown yet: %s", error)


def services(hub: Hub) -> list[Service]:
    """The services of this package."""
    return [Refresher(hub), Collector(hub), CatchUp(hub)]
