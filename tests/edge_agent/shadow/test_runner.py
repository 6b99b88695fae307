"""Orders and what becomes of them, with fake processes and a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.shadow.copies import Copies
from edge_agent.shadow.runner import MOST_CRASHES, Shadows
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.channel import Channel, ModelEntry
from fleet.rollouts.shadow import BAD
from tests.support.models import answer, inputs
from tests.support.shadows import HELD, FakeProcesses, FakeSink, ordered, outcome

X = inputs(1)


class World:
    def __init__(self) -> None:
        self.now = [0.0]
        self.processes, self.copies, self.sink = FakeProcesses(now=self.now), Copies(), FakeSink()
        self.shadows = Shadows(self.processes, self.copies, self.sink, now=lambda: self.now[0], sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now[0] += seconds

    async def order(self, beside=None) -> None:
        beside = beside or ordered()
        await self.shadows.follow([beside])
        if self.shadows.wants(beside):
            self.shadows.ready(beside)

    async def ask(self) -> None:
        assert self.copies.offer(outcome(X, answer(X)))
        await self.shadows.step()


@pytest.fixture
def world() -> World:
    return World()


def test_requests_are_compared_within_the_share_of_the_processor(world: World) -> None:
    async def scenario() -> None:
        await world.order()
        for _ in range(50):
            await world.ask()

    asyncio.run(scenario())
    assert len(world.sink.answers) == 50 and len(world.processes.started) == 1
    assert 50 * world.processes.cpu_s <= 0.05 * (world.now[0] + 1.0)


def test_nothing_is_copied_before_the_release_has_passed_its_self_test(world: World) -> None:
    async def scenario() -> None:
        await world.shadows.follow([ordered()])
        assert not world.copies.offer(outcome(X, answer(X)))

    asyncio.run(scenario())
    assert not world.processes.started


def test_a_process_that_ends_of_itself_is_started_anew_and_then_given_up(world: World) -> None:
    async def scenario() -> None:
        await world.order()
        await world.ask()
        world.processes.dies = True
        for _ in range(MOST_CRASHES):
            await world.ask()

    asyncio.run(scenario())
    assert world.sink.crashes == MOST_CRASHES and world.sink.given_up == [("tiny", "crash-loop")]
    assert "tiny" not in world.copies.wanted and all(process.closed for process in world.processes.started)
    assert not world.shadows.wants(ordered())  # not before the hub says so anew
    asyncio.run(world.order(ordered(attempt=2)))
    assert "tiny" in world.copies.wanted


@pytest.mark.parametrize("how", ["killed", "too-slow"])
def test_what_ends_a_process_from_outside_is_not_laid_to_the_release(world: World, how: str) -> None:
    async def scenario() -> None:
        await world.order()
        world.processes.dies = True
        for each in ("", how, ""):
            world.processes.how = each
            await world.ask()

    asyncio.run(scenario())
    assert world.sink.given_up == [("tiny", how)] and not how.startswith(BAD)


@pytest.mark.parametrize("after", [(), (ordered(attempt=2),)])
def test_an_order_that_comes_while_the_last_crash_is_cleared_up_is_kept(world: World, after) -> None:
    async def scenario() -> None:
        await world.order()
        world.processes.dies = True
        for _ in range(MOST_CRASHES - 1):
            await world.ask()
        world.processes.closing = lambda: world.shadows.follow(after)
        await world.ask()

    asyncio.run(scenario())
    assert world.sink.given_up == [] and all(world.shadows.wants(beside) for beside in after)
    assert set(world.shadows.document()) == {beside.model for beside in after}


def test_a_device_that_can_start_no_process_blames_nobody_and_waits(world: World) -> None:
    async def scenario() -> None:
        await world.order()
        world.processes.refuses = OSError("no memory")
        await world.ask()
        world.processes.refuses = None
        await world.ask()

    asyncio.run(scenario())
    assert world.now[0] >= 60.0 and world.sink.crashes == 0 and len(world.sink.answers) == 1


@pytest.mark.parametrize("after", [(), (ordered(attempt=2),), (ordered(held=None, reason="withdrawn"),)])
def test_what_is_not_ordered_any_more_is_ended(world: World, after) -> None:
    async def scenario() -> None:
        await world.order()
        await world.ask()
        await world.shadows.follow(after)

    asyncio.run(scenario())
    assert world.processes.started[0].closed and "tiny" not in world.copies.wanted


def test_one_that_cannot_be_read_anew_just_now_goes_on(world: World) -> None:
    async def scenario() -> None:
        await world.order()
        await world.ask()
        await world.shadows.follow([ordered(held=None, reason="clock-untrusted")])
        await world.ask()

    asyncio.run(scenario())
    assert len(world.processes.started) == 1 and len(world.sink.answers) == 2 and not world.sink.given_up


@pytest.mark.parametrize(("reason", "hears"), [("no-variant", True), ("below-floor", True), ("fetch-failed", False)])
def test_the_hub_hears_what_will_not_change_by_itself(world: World, reason: str, hears: bool) -> None:
    asyncio.run(world.shadows.follow([ordered(held=None, reason=reason)]))
    assert world.sink.given_up == [("tiny", reason)] * hears
    assert world.shadows.document()["tiny"]["reason"] == reason
    asyncio.run(world.shadows.follow([ordered(held=None, reason=reason)]))
    assert len(world.sink.given_up) == hears  # once


def test_a_self_test_that_is_killed_from_outside_may_try_again_and_a_failed_one_not(world: World) -> None:
    asyncio.run(world.shadows.follow([ordered()]))
    world.shadows.failed(ordered(), "killed", "out of memory")
    assert world.shadows.wants(ordered()) and not world.sink.given_up
    world.shadows.failed(ordered(), "selftest-failed", "wrong answers")
    assert not world.shadows.wants(ordered()) and world.sink.given_up == [("tiny", "selftest-failed")]


def test_what_was_fetched_stays_while_its_rollout_goes_on(world: World) -> None:
    def channel(rollout) -> Channel:
        return Channel(channel="c", version=1, models={"tiny": ModelEntry(release=1, rollout=rollout)})

    asyncio.run(world.order())
    asyncio.run(world.shadows.follow([]))
    assert world.shadows.kept(channel(ordered().rollout)) == [HELD]
    assert world.shadows.kept(channel(None)) == []


def test_another_variant_of_the_release_is_another_shadow(world: World) -> None:
    asyncio.run(world.order())
    other = ordered(held=HeldRelease(release=2, variant="onnx-int8", manifest="n" * 64))
    asyncio.run(world.shadows.follow([other]))
    assert world.shadows.wants(other)
