"""The right to infer, and its rate."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cloud_hub.errors import ForbiddenError, RateError, UnauthenticatedError
from cloud_hub.identity.admission import Admission
from cloud_hub.identity.callers import Caller
from cloud_hub.identity.rates import RateLimiter
from cloud_hub.store.fresh import Freshness
from tests.support.hub import HubFixture


class Asking:
    """A hub's admission, asked like a request would."""

    def __init__(self, hub: HubFixture) -> None:
        self.freshness = Freshness(lambda: 1)
        self.admission = Admission(hub.hub, self.freshness)

    def __call__(self, token: str, model: str) -> Caller:
        async def ask() -> Caller:
            caller = await self.admission.get(f"Bearer {token}")
            self.admission.take(caller, model)
            return caller

        return asyncio.run(ask())


@pytest.fixture
def ask(hub: HubFixture) -> Iterator[Asking]:
    asking = Asking(hub)
    yield asking
    asking.freshness.close()


def test_scopes(hub: HubFixture, ask: Asking) -> None:
    one = hub.token("application", scope="infer:digits")
    every = hub.token("application", scope="infer:*")
    assert ask(one, "digits").kind == "application"
    assert ask(every, "other").kind == "application"
    assert ask(hub.admin_token, "digits").role == "admin"
    for token, model in [(one, "digits2"), (hub.token("mirror"), "digits"), (hub.token(role="viewer"), "digits")]:
        with pytest.raises(ForbiddenError):
            ask(token, model)
    with pytest.raises(UnauthenticatedError):
        ask(hub.token("claim", channel="stable", pin="p"), "digits")


def test_the_rate_of_a_token(hub: HubFixture, ask: Asking) -> None:
    token = hub.token("application", scope="infer:*", rate_per_s=3.0)
    for _ in range(3):
        ask(token, "m")
    with pytest.raises(RateError, match="3 requests per second"):
        ask(token, "m")
    hub.clock.advance(0.4)
    ask(token, "m")
    with pytest.raises(RateError):
        ask(token, "m")


def test_a_token_that_is_kept_ends_when_it_ends(hub: HubFixture, ask: Asking) -> None:
    token = hub.token("application", scope="infer:*", expires_in_s=60.0)
    ask(token, "m")
    hub.clock.advance(60.0)
    with pytest.raises(UnauthenticatedError):
        ask(token, "m")


def test_rates_are_counted_for_a_bounded_number_of_callers() -> None:
    limiter = RateLimiter(most=3)
    for n in range(50):
        limiter.take(f"caller-{n}", 1.0, float(n))
    assert len(limiter) == 3
    with pytest.raises(RateError):
        limiter.take("caller-49", 1.0, 49.5)


def test_slow_rates_let_one_through() -> None:
    limiter = RateLimiter()
    limiter.take("a", 0.1, 0.0)
    with pytest.raises(RateError):
        limiter.take("a", 0.1, 9.0)
    limiter.take("a", 0.1, 19.0)
    limiter.take("b", 0.1, 19.0)
