"""The service signs anew what is due, and says what only a ceremony can renew."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cloud_hub.services.supervisor import run_services
from cloud_hub.trust.refresher import services
from cloud_hub.trust.repository import version_of
from tests.support.hub import HubFixture


def stamp(hub: HubFixture) -> int:
    return version_of(hub.hub.objects.get("tuf/metadata/timestamp.json").data)


def run_until(hub: HubFixture, version: int) -> None:
    """Run the services until the published timestamp has this version."""

    async def go() -> None:
        task = asyncio.create_task(run_services(services(hub.hub)))
        while stamp(hub) < version:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(go(), 30))


def test_a_day_later_the_timestamp_is_new(hub: HubFixture) -> None:
    before = stamp(hub)
    hub.clock.advance(86_401)
    run_until(hub, before + 1)
    assert stamp(hub) == before + 1


def test_warnings_come_sixty_days_ahead(hub: HubFixture, caplog: pytest.LogCaptureFixture) -> None:
    hub.clock.advance(310 * 86_400)
    with caplog.at_level(logging.WARNING):
        services(hub.hub)[0]._warn()  # type: ignore[attr-defined]
    text = caplog.text
    assert all(f"signed role {role} expires in 55 days" in text for role in ("root", "targets", "models"))
