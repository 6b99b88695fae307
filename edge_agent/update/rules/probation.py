"""Ends a probation: by failed requests, by run times, by what was answered well, or by time. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from edge_agent.ports import ReleaseHealth
from edge_agent.update.rules.machine import (
    MIN_TIMED,
    NO_REASON,
    moved,
    rolled_back,
)
from edge_agent.update.rules.model_state import ModelState, UpdateTarget

NOT_AGAIN = "look at the agent's log; the release is not tried again"


def judged(state: ModelState, health: ReleaseHealth, served_s: float) -> ModelState | None:
    """End a probation, one way or the other; None while it goes on.

    Health and `served_s` are of the process that asks: neither the time in which a device was off nor a clock that was
    set proves a release. Nor does time alone: a release that answered nobody though it was asked goes, and one that
    nobody asked is committed as untried, until its first requests are judged.

    Args:
        state: of the model.
        health: the release's counts.
        served_s: seconds without a break.
    """
    if state.state == "committed" and state.untried:
        return _tried(state, health)
    if state.state != "probation":
        return None
    broken = _broken(state, health)
    if broken is not None:
        return broken
    too_slow = _too_slow(state, health)
    if too_slow:
        return rolled_back(
            state, "latency", too_slow, "the channel's probation limits it; the release is not tried again"
        )
    good = health.requests - health.failures
    if good >= state.probation.requests or served_s >= state.probation.seconds:
        if not good and _bad(health):
            return rolled_back(state, "no-good-answer", f"{_bad_in_words(health)}; none was answered", NOT_AGAIN)
        done = replace(moved(state, "committed"), untried=not good, target=None, older=None)
        return replace(done, starts=0, last=None, spent=0, **NO_REASON)
    return None


def _tried(state: ModelState, health: ReleaseHealth) -> ModelState | None:
    """The first requests of a release that was committed untried; None while there are none."""
    if state.active is not None and state.previous is not None:  # there is something to go back to
        broken = _broken(replace(state, target=UpdateTarget(held=state.active, rollout=state.pairing)), health)
        if broken is not None:
            return broken
    return replace(state, untried=False) if health.requests > health.failures else None


def _broken(state: ModelState, health: ReleaseHealth) -> ModelState | None:
    """Rolled back, when more requests failed than the probation allows."""
    allowed = state.probation.max_failures
    if _bad(health) <= allowed:
        return None
    word = "failures" if health.failures else "refusals"
    detail = f"{_bad_in_words(health)}, at most {allowed} {'is' if allowed == 1 else 'are'} allowed to fail"
    return rolled_back(state, word, detail, NOT_AGAIN)


def _bad(health: ReleaseHealth) -> int:
    return health.failures + health.newly_refused


def _bad_in_words(health: ReleaseHealth) -> str:
    words = []
    if health.failures:
        words.append(f"{health.failures} of {health.requests} requests failed")
    if health.newly_refused:
        words.append(
            f"{health.newly_refused} that the release before took were refused ({health.refusal or 'no reason given'})"
        )
    return ", ".join(words)


def _too_slow(state: ModelState, health: ReleaseHealth) -> str:
    """In words, by how much the release on probation is slower than the policy allows."""
    policy = state.probation
    if health.timed < min(MIN_TIMED, policy.requests):
        return ""
    if 0 < policy.max_p95_us < health.p95_us:
        return f"95 of 100 runs take up to {health.p95_us:.0f} us, at most {policy.max_p95_us:g} us are allowed"
    limit = policy.max_p95_ratio * state.baseline_us
    if 0 < limit < health.p95_us:
        return (
            f"95 of 100 runs take up to {health.p95_us:.0f} us, the previous release took {state.baseline_us:.0f} us "
            f"and {policy.max_p95_ratio:g} times that is allowed"
        )
    return ""
