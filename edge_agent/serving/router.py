"""Decides whether device or cloud answers a request: pure, so that every rule can be tested alone.

Local first. The channel says when the cloud is asked; by default when the calibrated confidence lies under the
threshold, when the local model failed, or when there is none. When the cloud cannot be asked or is late, a local answer
goes out marked degraded; without one the request fails.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from fleet.protocol.channel import ALWAYS, LOW_CONFIDENCE, NEVER, ON_FAILURE, Routing
from fleet.protocol.confidence import should_defer
from fleet.protocol.manifest import Deferral

MIN_BUDGET_S = 0.005  # less than this is not worth a call

Reason = Literal["", "asked-for", "low-confidence", "no-local-model", "local-failed", "always"]


class Local(Struct, frozen=True, kw_only=True):
    """The local model's answer: `confidence` is the lowest of the batch, None without classes;
    `wants_cloud` when the caller asks for the cloud's answer whatever the confidence."""

    ok: bool
    confidence: float | None = None
    wants_cloud: bool = False


class Route(Struct, frozen=True, kw_only=True):
    """`ask` the cloud or not; `reason` why it is (or would be) asked; `refused` why it is not."""

    ask: bool
    reason: Reason = ""
    refused: str = ""

    @property
    def deferred(self) -> bool:
        """A local answer exists and the cloud is asked all the same."""
        return self.ask and self.reason in ("low-confidence", "always")


class RoutingResult(Struct, frozen=True, kw_only=True):
    """The final word on one request; `fallback_reason` is empty for an undisturbed local answer."""

    served_by: Literal["edge", "cloud", "nobody"]
    degraded: bool = False
    deferred: bool = False
    fallback_reason: str = ""


def threshold(routing: Routing, deferral: Deferral | None) -> float | None:
    """The deferral threshold in force: the channel's, else the manifest's, else none."""
    if routing.threshold is not None:
        return routing.threshold
    return deferral.threshold if deferral is not None else None


EDGE = RoutingResult(served_by="edge")  # of nearly all requests: nothing speaks for the cloud


def reason_for(local: Local | None, limit: float | None, when: str = LOW_CONFIDENCE) -> Reason:
    """Return why the cloud would be asked; empty where the local answer will do. Arguments as in `route`."""
    if local is None:
        return "no-local-model"
    if not local.ok:
        return "local-failed"
    if local.wants_cloud:
        return "asked-for"
    if when == ALWAYS:
        return "always"
    if when == ON_FAILURE or limit is None or local.confidence is None:
        return ""
    return "low-confidence" if should_defer(local.confidence, limit) else ""


CHOSEN = ("cloud-off", "edge-only")  # why the cloud is not asked, where somebody chose local answers


def route(
    local: Local | None,
    limit: float | None,
    *,
    cloud: bool,
    blocked: str,
    budget_s: float,
    edge_only: bool = False,
    when: str = LOW_CONFIDENCE,
) -> Route:
    """Decide once the local model has answered, failed, or is missing.

    Args:
        local: None when no local model is held.
        limit: the threshold in force, None to never defer.
        cloud: the channel allows the cloud and the device has a hub.
        blocked: why the cloud is not to be asked now (`breaker-open`, `cloud-busy`); empty when it may be.
        budget_s: seconds left until the request's deadline.
        edge_only: the caller wants the device's own answer.
        when: the channel's policy, one of `channel.WHEN`.
    """
    reason = reason_for(local, limit, when)
    if not reason:
        return Route(ask=False)
    if edge_only:
        return Route(ask=False, reason=reason, refused="edge-only")
    if not cloud or when == NEVER:
        return Route(ask=False, reason=reason, refused="cloud-off")
    if budget_s < MIN_BUDGET_S:
        return Route(ask=False, reason=reason, refused="deadline")
    if blocked:
        return Route(ask=False, reason=reason, refused=blocked)
    return Route(ask=True, reason=reason)


def settle_route(route: Route, *, local_ok: bool, cloud_error: str | None) -> RoutingResult:
    """Return the verdict after the cloud answered (`cloud_error` None), failed, or was not asked."""
    if route.ask and cloud_error is None:
        return RoutingResult(served_by="cloud", deferred=route.deferred, fallback_reason=route.reason)
    missed = cloud_error if route.ask else route.refused
    if local_ok:
        # Somebody who switches the cloud off, for a channel or a request, chose local answers: no degradation.
        degraded = bool(missed) and missed not in CHOSEN
        return RoutingResult(served_by="edge", degraded=degraded, deferred=route.deferred, fallback_reason=missed or "")
    return RoutingResult(served_by="nobody", degraded=True, fallback_reason=missed or route.reason)
