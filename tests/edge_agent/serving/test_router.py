from __future__ import annotations

import pytest

from edge_agent.serving import breaker as breakers
from edge_agent.serving.breaker import Breaker
from edge_agent.serving.router import Local, Route, RoutingResult, route, settle_route, threshold
from fleet.protocol.channel import Routing
from fleet.protocol.manifest import Deferral

SURE, UNSURE, BROKEN = Local(ok=True, confidence=0.9), Local(ok=True, confidence=0.3), Local(ok=False)
ABLE = {"cloud": True, "blocked": "", "budget_s": 1.0}


@pytest.mark.parametrize(
    ("local", "limit", "able", "expected"),
    [
        (SURE, 0.5, ABLE, Route(ask=False)),
        (SURE, None, ABLE, Route(ask=False)),
        (Local(ok=True, confidence=0.5), 0.5, ABLE, Route(ask=False)),
        (Local(ok=True), 0.5, ABLE, Route(ask=False)),
        (Local(ok=True, confidence=float("nan")), 0.5, ABLE, Route(ask=True, reason="low-confidence")),
        (UNSURE, 0.5, ABLE, Route(ask=True, reason="low-confidence")),
        (BROKEN, 0.5, ABLE, Route(ask=True, reason="local-failed")),
        (None, None, ABLE, Route(ask=True, reason="no-local-model")),
        (UNSURE, 0.5, {**ABLE, "cloud": False}, Route(ask=False, reason="low-confidence", refused="cloud-off")),
        (
            UNSURE,
            0.5,
            {**ABLE, "blocked": "breaker-open"},
            Route(ask=False, reason="low-confidence", refused="breaker-open"),
        ),
        (
            UNSURE,
            0.5,
            {**ABLE, "blocked": "cloud-busy"},
            Route(ask=False, reason="low-confidence", refused="cloud-busy"),
        ),
        (UNSURE, 0.5, {**ABLE, "budget_s": 0.001}, Route(ask=False, reason="low-confidence", refused="deadline")),
    ],
)
def test_route(local, limit, able, expected):
    assert route(local, limit, **able) == expected


@pytest.mark.parametrize(
    ("local", "able", "error", "expected"),
    [
        (SURE, ABLE, None, RoutingResult(served_by="edge")),
        (UNSURE, ABLE, None, RoutingResult(served_by="cloud", deferred=True, fallback_reason="low-confidence")),
        (
            UNSURE,
            ABLE,
            "deadline",
            RoutingResult(served_by="edge", degraded=True, deferred=True, fallback_reason="deadline"),
        ),
        (BROKEN, ABLE, None, RoutingResult(served_by="cloud", fallback_reason="local-failed")),
        (BROKEN, ABLE, "unreachable", RoutingResult(served_by="nobody", degraded=True, fallback_reason="unreachable")),
        (UNSURE, {**ABLE, "cloud": False}, None, RoutingResult(served_by="edge", fallback_reason="cloud-off")),
        (
            UNSURE,
            {**ABLE, "blocked": "breaker-open"},
            None,
            RoutingResult(served_by="edge", degraded=True, fallback_reason="breaker-open"),
        ),
    ],
)
def test_settle(local, able, error, expected):
    plan = route(local, 0.5, **able)
    assert settle_route(plan, local_ok=local.ok, cloud_error=error) == expected


def test_the_channels_threshold_outranks_the_manifests():
    deferral = Deferral(temperature=1.0, threshold=0.7, target="")
    assert threshold(Routing(), deferral) == 0.7
    assert threshold(Routing(threshold=0.2), deferral) == 0.2
    assert threshold(Routing(), None) is None


def test_breaker_opens_after_failures_in_a_row_and_probes_once():
    state = Breaker()
    for _ in range(2):
        state = breakers.failed(state, 10.0, 3)
        assert breakers.blocked(state, 10.0, 5.0) == ""
    state = breakers.failed(state, 10.0, 3)
    assert breakers.blocked(state, 14.9, 5.0) == "breaker-open"
    assert breakers.wait_s(state, 14.0, 5.0) == 1.0
    assert breakers.blocked(state, 15.0, 5.0) == ""
    probing, probe = breakers.started(state)
    assert probe and breakers.blocked(probing, 16.0, 5.0) == "breaker-open"
    assert breakers.blocked(breakers.answered(probing), 16.0, 5.0) == ""
    reopened = breakers.failed(probing, 16.0, 3, probe=True)
    assert breakers.blocked(reopened, 20.0, 5.0) == "breaker-open"
    assert breakers.blocked(reopened, 21.0, 5.0) == ""


def test_a_call_from_before_the_breaker_opened_neither_ends_a_probe_nor_prolongs_the_pause():
    opened = breakers.failed(Breaker(), 10.0, 1)
    assert breakers.failed(opened, 12.0, 1) == opened
    probing, _ = breakers.started(opened)
    assert breakers.failed(probing, 15.0, 1) == probing


def test_a_success_between_failures_keeps_the_breaker_closed():
    state = Breaker()
    for _ in range(10):
        state = breakers.answered(breakers.failed(breakers.failed(state, 0.0, 3), 0.0, 3))
    assert breakers.blocked(state, 0.0, 5.0) == ""


def test_a_busy_endpoint_is_left_alone_as_long_as_it_asks_and_is_not_dead():
    state = breakers.answered(breakers.failed(Breaker(), 10.0, 1), busy_until=13.0)
    assert [breakers.blocked(state, now, 5.0) for now in (10.0, 12.9, 13.0)] == ["cloud-busy", "cloud-busy", ""]
    assert breakers.wait_s(state, 11.0, 5.0) == 2.0
    assert breakers.blocked(breakers.answered(state), 12.0, 5.0) == "cloud-busy"  # an answer of before it asked


def test_a_caller_may_ask_for_the_cloud_and_still_gets_the_local_answer_when_it_is_away():
    sure = Local(ok=True, confidence=0.999, wants_cloud=True)
    asked = route(sure, 0.5, cloud=True, blocked="", budget_s=1.0)
    assert asked.ask and asked.reason == "asked-for" and not asked.deferred
    assert settle_route(asked, local_ok=True, cloud_error=None).served_by == "cloud"
    away = settle_route(asked, local_ok=True, cloud_error="unreachable")
    assert (away.served_by, away.degraded) == ("edge", True)


@pytest.mark.parametrize(
    ("when", "asked"),
    [
        ("never", {}),
        ("on-failure", {"failed": "local-failed", "none": "no-local-model"}),
        ("low-confidence", {"failed": "local-failed", "none": "no-local-model", "unsure": "low-confidence"}),
        ("speculative", {"failed": "local-failed", "none": "no-local-model", "unsure": "low-confidence"}),
        (
            "always",
            {"failed": "local-failed", "none": "no-local-model", "unsure": "always", "sure": "always"},
        ),
    ],
)
def test_policies(when: str, asked: dict[str, str]) -> None:
    cases = {
        "failed": Local(ok=False),
        "none": None,
        "unsure": Local(ok=True, confidence=0.1),
        "sure": Local(ok=True, confidence=0.9),
    }
    found = {name: route(local, 0.5, cloud=True, blocked="", budget_s=1.0, when=when) for name, local in cases.items()}
    assert {name: one.reason for name, one in found.items() if one.ask} == asked
    if when == "never":
        assert found["unsure"].refused == "cloud-off"
