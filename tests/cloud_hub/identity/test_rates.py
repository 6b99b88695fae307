"""Several hubs give a caller one rate, however its requests are spread, and a hub alone gives all of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import select

from cloud_hub.app import create_app, inference_services
from cloud_hub.errors import RateError
from cloud_hub.identity.rates import MOST_TOLD, RateLimiter
from cloud_hub.identity.sharing import KEPT_S, TRUE_FOR_S, RateSharing
from cloud_hub.store.tables import CallerUse
from tests.support.hub import HubFixture

RATE, KEY = 50.0, "application:one"


def ask(limiter: RateLimiter, times: int, second: int, key: str = KEY, rate: float = RATE) -> int:
    """Count the answers to so many requests, spread over a second."""
    answered = 0
    for number in range(times):
        try:
            limiter.take(key, rate, second + number / max(times, 1))
            answered += 1
        except RateError:
            pass
    return answered


def exchange(limiters: list[RateLimiter]) -> None:
    """Do for each what `RateSharing` does once a second."""
    told = [limiter.tell(1.0) for limiter in limiters]
    for limiter, mine in zip(limiters, told, strict=True):
        others: dict[str, float] = {}
        for one in told:
            if one is not mine:
                for key, asked in one.items():
                    others[key] = others.get(key, 0.0) + asked
        limiter.told(mine, others)


@given(asked=st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_hubs_together_give_the_rate_however_requests_are_spread(asked: list[int]) -> None:
    limiters = [RateLimiter() for _ in asked]
    answered = 0
    for second in range(12):
        got = sum(ask(limiter, times, second) for limiter, times in zip(limiters, asked, strict=True))
        exchange(limiters)
        answered += got if second >= 2 else 0  # they hear of each other after the first
    wanted = min(sum(asked), RATE)
    # Each may let one request more a second, and up to a tenth of the rate without a word to the others.
    assert answered / 10 <= wanted + len(asked) * (1 + 0.1 * RATE)
    assert answered / 10 >= 0.9 * wanted - len(asked)


def test_who_keeps_to_its_rate_is_refused_nothing_however_unevenly_requests_come() -> None:
    limiters = [RateLimiter() for _ in range(4)]
    for second in range(12):
        for number in range(10):  # in each second most of them to another hub
            limiters[(second if number < 8 else second + number) % 4].take(KEY, 10.0, second + number / 10)
        exchange(limiters)


def test_who_moves_to_another_hub_gets_the_rate_there() -> None:
    limiters = [RateLimiter(), RateLimiter()]
    for second in range(3):
        ask(limiters[0], 200, second)
        exchange(limiters)
    assert ask(limiters[1], 200, 3) <= RATE + 1 + RATE  # it is new there, and its bucket full
    exchange(limiters)
    exchange(limiters)  # the first one has nothing to tell
    assert ask(limiters[1], 200, 5) >= 0.9 * RATE


def test_who_asks_little_is_told_of_to_nobody_and_of_a_crowd_the_busiest() -> None:
    limiter = RateLimiter()
    ask(limiter, 4, 0)  # less than a tenth
    assert limiter.tell(1.0) == {}
    for number in range(MOST_TOLD + 5):
        ask(limiter, 1 + (number >= 5), 1, key=f"application:{number}", rate=1.0)
    told = limiter.tell(1.0)
    assert len(told) == MOST_TOLD and set(told.values()) == {2.0}
    assert limiter.tell(1.0) == {}


def test_hubs_hear_of_each_other_through_the_database(hub: HubFixture) -> None:
    one, other = (RateSharing(hub.hub, RateLimiter()) for _ in range(2))
    assert one.exchange({}) == {}
    assert one.exchange({KEY: 30.0}) == {}
    assert other.exchange({KEY: 10.0, "application:two": 5.0}) == {KEY: 30.0}
    assert one.exchange({KEY: 40.0}) == {KEY: 10.0, "application:two": 5.0}
    assert other.exchange({}) == {KEY: 40.0}
    assert one.exchange({KEY: 40.0}) == {}
    hub.clock.advance(TRUE_FOR_S + 1)
    assert other.exchange({KEY: 1.0}) == {}  # what it said is no longer true: it may have ended
    hub.clock.advance(KEPT_S + 1)
    other.exchange({KEY: 1.0})
    with hub.hub.reading() as session:
        assert [(row.caller, row.per_s) for row in session.exec(select(CallerUse)).all()] == [(KEY, 1.0)]


def test_what_a_slow_database_delays_is_not_taken_for_more_requests(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, now, told = RateLimiter(), [100.0], list[dict[str, float]]()

    class EnoughError(Exception):
        """Ends the service."""

    def exchange(mine: dict[str, float]) -> dict[str, float]:
        told.append(mine)
        now[0] += 4.0  # the database is slow
        return {}

    async def sleep(seconds: float) -> None:
        if len(told) == 2:
            raise EnoughError
        ask(limiter, 50, 0)
        now[0] += seconds

    sharing = RateSharing(hub.hub, limiter, monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(sharing, "exchange", exchange)
    with pytest.raises(EnoughError):
        asyncio.run(sharing.run())
    assert told == [{KEY: 50.0}, {KEY: 10.0}]


def test_a_hub_that_is_hardly_asked_touches_no_database(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(hub.hub), "session", lambda _: pytest.fail("a write"))
    monkeypatch.setattr(type(hub.hub), "reading", lambda _: pytest.fail("a read"))
    assert RateSharing(hub.hub, RateLimiter()).exchange({}) == {}


def test_a_hub_that_is_alone_tells_now_and_then_and_answers_another_at_once(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, written = RateSharing(hub.hub, RateLimiter()), RateSharing(hub.hub, RateLimiter()), list[float]()
    monkeypatch.setattr(one, "_tell", lambda mine, now: (written.append(now), RateSharing._tell(one, mine, now)))
    began = hub.clock()
    for _ in range(100):
        assert one.exchange({KEY: 30.0}) == {}
        hub.clock.advance(1)
    assert [at - began for at in written] == [0, 30, 60, 90]
    assert other.exchange({KEY: 10.0}) == {}, "what it told ten seconds ago is no longer true"
    assert one.exchange({KEY: 30.0}) == {KEY: 10.0}
    assert other.exchange({KEY: 10.0}) == {KEY: 30.0}, "it was answered within the same second"
    hub.clock.advance(-500)  # the clock was set back
    one.exchange({KEY: 20.0})
    assert written[-1] == hub.clock()


def test_every_process_that_answers_shares_its_rates(hub: HubFixture) -> None:
    inference = create_app(hub.hub, inference_only=True).state.inference
    shared = [one for one in inference_services(hub.hub, inference) if isinstance(one, RateSharing)]
    assert len(shared) == 1 and shared[0]._rates is inference.admission.rates
