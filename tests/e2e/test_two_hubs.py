"""Two hub processes on one PostgreSQL and one broker: one is killed, and nothing is lost or done twice.

In the full size 200 devices report for half an hour, while one of the two, drawn at random, is killed again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from cloud_hub.ingest.commands import send_command
from cloud_hub.jobs import queue
from tests.support.hub_site import Device, Site, check_reports, enrol, made_site, reporting, until
from tests.support.size import sized

pytestmark = pytest.mark.e2e
NAMES = [f"cam-{number}" for number in range(sized(8, 200))]
KILLS_FOR_S = sized(0.0, 1800.0)  # one at least
SEED = 17


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with made_site(tmp_path) as made:
        yield made


def test_a_hub_that_is_killed_is_replaced_and_nothing_is_lost_or_done_twice(site: Site) -> None:
    kills, rng = list[int](), Random(SEED)

    async def scenario() -> None:
        with contextlib.ExitStack() as stack:
            hubs = [stack.enter_context(site.serve(name)) for name in ("one", "two")]
            await until(lambda: site.shares() == [8, 8], "the two share the ingest")
            devices = [Device(site.base / name, site.hub, name, enrol(site.hub, name)) for name in NAMES]
            given: list[set[str]] = [set() for _ in devices]

            async def ask_each() -> None:
                for device, ids in zip(devices, given, strict=True):
                    ids.add(send_command(site.hub, device.name, "diagnose", {}))
                for device, ids in zip(devices, given, strict=True):
                    await until(lambda device=device, ids=ids: ids <= set(device.commands), "commands arrive")  # type: ignore[misc]

            async with reporting(devices):
                await until(lambda: all(device.uplink.online for device in devices), "all are connected")
                await ask_each()
                over = time.monotonic() + KILLS_FOR_S
                while not kills or time.monotonic() < over:
                    if kills:
                        again = await asyncio.to_thread(stack.enter_context, site.serve(("one", "two")[kills[-1]]))
                        hubs[kills[-1]] = again
                        await until(lambda: site.shares() == [8, 8], "the one that was killed is replaced")
                    for _ in range(3):
                        queue.submit(site.hub, "nobody-knows-it", actor="test")
                    kills.append(rng.randrange(2))
                    hubs[kills[-1]].stop(signal.SIGKILL)
                    before = [device.spool.base for device in devices]
                    await until(lambda: site.shares() == [16], "the other has taken over")
                    await until(
                        lambda before=before: all(d.spool.base > b for d, b in zip(devices, before, strict=True)),  # type: ignore[misc]
                        "every device is heard",
                    )
                await ask_each()
                await until(lambda: all(job.state == "failed" for job in site.jobs()), "the jobs are done")
        count = check_reports(site, devices)
        print(f"{len(kills)} kills of {len(devices)} devices' hubs, {count} reports")
        assert count > 100
        for device, ids in zip(devices, given, strict=True):
            assert sorted(device.commands) == sorted(ids), "each command came once"
        assert [job.attempt for job in site.jobs()] == [1] * 3 * len(kills)

    asyncio.run(scenario())
