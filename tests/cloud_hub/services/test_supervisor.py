"""A service that fails is started again; cancelling ends them all."""

from __future__ import annotations

import asyncio
import logging

import pytest

from cloud_hub.services import supervisor


class Flaky:
    """Fails a few times, then waits for ever."""

    name = "flaky"

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.starts = 0
        self.steady = asyncio.Event()

    async def run(self) -> None:
        self.starts += 1
        if self.starts <= self.failures:
            raise ValueError("no broker yet")
        self.steady.set()
        await asyncio.Event().wait()


class Brief:
    """Has nothing to do."""

    name = "brief"

    async def run(self) -> None:
        return


def test_a_failing_service_starts_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(supervisor, "RESTART_S", (0.0,))

    async def go() -> Flaky:
        flaky = Flaky(3)
        task = asyncio.create_task(supervisor.run_services([flaky, Brief()]))
        await asyncio.wait_for(flaky.steady.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return flaky

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(go()).starts == 4
    assert caplog.text.count("service flaky failed") == 3 and "no broker yet" in caplog.text
