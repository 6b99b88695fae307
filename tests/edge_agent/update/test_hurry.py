"""Notices bring looks forward, but a flood of them neither starves a fetch nor keeps the device looking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from edge_agent.config import AgentConfig
from edge_agent.update.disk.state import Looked
from edge_agent.update.messages import Failed, LookRequest, LookResult, Message, Offer, Ready, StepProgress, StepRequest
from edge_agent.update.rules.model_state import HeldRelease, UpdateTarget
from edge_agent.update.rules.notice_backoff import FREE, MOST_S, NoticeBackoff
from edge_agent.update.updater import Updater
from fleet.protocol.channel import Channel, ModelEntry
from tests.support.device import FakeActivator, FakeReporter
from tests.support.updaters import make_updater


def waits(times: list[float]) -> list[float]:
    """The time that the look after each notice waits."""
    now = [0.0]
    hurry, found = NoticeBackoff(lambda: now[0]), []
    for at in times:
        now[0] = at
        hurry.noticed()
        found.append(hurry.patience_s)
    return found


def test_the_first_notices_are_followed_at_once() -> None:
    assert waits([0.0, 0.1, 0.2]) == [0.0] * FREE


def test_each_further_notice_in_a_row_waits_twice_as_long_up_to_a_minute() -> None:
    assert waits([0.1 * n for n in range(12)]) == [0, 0, 0, 1, 2, 4, 8, 16, 32, MOST_S, MOST_S, MOST_S]


def test_after_a_minute_without_notices_all_is_forgotten() -> None:
    assert waits([*(0.1 * n for n in range(6)), 61.0])[-2:] == [4.0, 0.0]


def test_notices_that_come_now_and_then_never_wait() -> None:
    assert set(waits([70.0 * n for n in range(20)])) == {0.0}


def test_notices_of_something_new_never_wait() -> None:
    now = [0.0]
    hurry = NoticeBackoff(lambda: now[0])
    for second in range(30):
        now[0] = float(second)
        hurry.noticed()
        assert hurry.patience_s == 0.0
        hurry.worthwhile()


class Flood:
    """Implements `Children` and `LookChild` in a world in which a notice comes with every second that passes.

    The fetch is resumed from look to look and needs `needed` seconds altogether.
    """

    def __init__(self, needed: int) -> None:
        self.now, self.needed, self.looks = 0.0, needed, 0
        self.updater: Updater | None = None
        self.done = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 1.0
            self.updater.notice("the broker says so")
            for _ in range(5):  # the other tasks have their turns
                await asyncio.sleep(0)

    async def start(self) -> Flood:
        return self

    async def look(self, asked: LookRequest) -> list[Message]:
        self.looks += 1
        await self.sleep(1)
        channel = Channel(channel="stable", version=1, models={"m": ModelEntry(release=2)})
        target = UpdateTarget(held=HeldRelease(release=2, variant="v", manifest="a" * 64))
        return [LookResult(looked=Looked(channel=channel)), Offer(model="m", target=target), Ready()]

    async def step(self, step: StepRequest) -> AsyncIterator[Message]:
        while self.needed:
            await self.sleep(1)
            self.needed -= 1
            yield StepProgress(share=0.5, received=1)
        self.done.set()
        yield Failed(reason="disk-full", detail="all is here, which is enough for this test")

    async def close(self) -> None:
        """Nothing to end."""


def test_a_flood_of_notices_does_not_starve_a_fetch(tmp_path: Path) -> None:
    flood = Flood(needed=40)

    async def endure() -> None:
        flood.updater = make_updater(
            AgentConfig(dir=tmp_path, disk_reserve_bytes=0),
            "d",
            "stable",
            FakeActivator(),
            FakeReporter(),
            flood,
            kinds=("onnx",),
            now=lambda: flood.now,
            sleep=flood.sleep,
        )
        running = asyncio.ensure_future(flood.updater._keep_looking())
        await asyncio.wait_for(flood.done.wait(), 30)
        running.cancel()

    asyncio.run(endure())
    assert flood.needed == 0 and flood.looks < 30 and flood.now < 300
