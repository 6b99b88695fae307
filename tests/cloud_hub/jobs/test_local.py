"""The worker beside the server: a real child process that does a job, ends with it, and can be left out."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from cloud_hub import jobs
from cloud_hub.jobs import queue
from cloud_hub.jobs.local import LocalWorker
from tests.support.hub import HubFixture, make_hub

DEADLINE_S = 240.0


async def until_ended(hub: HubFixture, job: str) -> None:
    while queue.get(hub.hub, job).state not in queue.ENDED:
        await asyncio.sleep(0.05)


def test_it_does_jobs_until_it_is_cancelled(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, start=time.time())
    job = queue.submit(hub.hub, "unheard-of", actor="test").id

    async def main() -> None:
        service = asyncio.create_task(LocalWorker(hub.hub).run())
        await asyncio.wait_for(until_ended(hub, job), DEADLINE_S)
        service.cancel()
        (outcome,) = await asyncio.wait_for(asyncio.gather(service, return_exceptions=True), DEADLINE_S)
        assert isinstance(outcome, asyncio.CancelledError)

    asyncio.run(main())
    ended = queue.get(hub.hub, job)
    assert ended.state == "failed" and "no worker knows" in ended.error


def test_the_configuration_leaves_it_out(tmp_path: Path) -> None:
    assert [service.name for service in jobs.services(make_hub(tmp_path / "a").hub)] == ["local-worker"]
    assert jobs.services(make_hub(tmp_path / "b", worker={"local": False}).hub) == []
