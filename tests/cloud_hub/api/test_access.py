"""Who may infer, and how often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cloud_hub.api.access import RateLimiter, authorize_inference
from cloud_hub.errors import ForbiddenError, RateError, UnauthenticatedError
from tests.support.hub import HubFixture


def request(token: str) -> Any:
    """What `authorize_inference` reads of a request."""
    state = SimpleNamespace(rate_limiter=RateLimiter())
    return SimpleNamespace(headers={"authorization": f"Bearer {token}"}, app=SimpleNamespace(state=state))


def test_scopes(hub: HubFixture) -> None:
    one = request(hub.token("application", scope="infer:digits"))
    every = request(hub.token("application", scope="infer:*"))
    assert authorize_inference(hub.hub, one, "digits").kind == "application"
    assert authorize_inference(hub.hub, every, "other").kind == "application"
    assert authorize_inference(hub.hub, request(hub.admin_token), "digits").role == "admin"
    refused = [
        (one, "digits2"),
        (request(hub.token("mirror")), "digits"),
        (request(hub.token(role="viewer")), "digits"),
    ]
    for asked, model in refused:
        with pytest.raises(ForbiddenError):
            authorize_inference(hub.hub, asked, model)
    with pytest.raises(UnauthenticatedError):
        authorize_inference(hub.hub, request(hub.token("claim", channel="stable", pin="p")), "digits")


def test_the_rate_of_a_token(hub: HubFixture) -> None:
    asked = request(hub.token("application", scope="infer:*", rate_per_s=3.0))
    for _ in range(3):
        authorize_inference(hub.hub, asked, "m")
    with pytest.raises(RateError, match="3 requests per second"):
        authorize_inference(hub.hub, asked, "m")
    hub.clock.advance(0.4)
    authorize_inference(hub.hub, asked, "m")
    with pytest.raises(RateError):
        authorize_inference(hub.hub, asked, "m")


def test_slow_rates_let_one_through() -> None:
    limiter = RateLimiter()
    limiter.take("a", 0.1, 0.0)
    with pytest.raises(RateError):
        limiter.take("a", 0.1, 9.0)
    limiter.take("a", 0.1, 19.0)
    limiter.take("b", 0.1, 19.0)
