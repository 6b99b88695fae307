"""The update machine of one model. Pure: a state and what happened in, a new state out; no I/O, no clock.

    idle → fetching → verifying → trying → probation → committed
                                     └────────┴──────→ rolled_back(reason)

Every new state is on the disk before the step it names is taken, so that after a crash `resumed`
knows what was under way. What serves (`active`) changes on entering probation, and what served
before (`previous`) is kept until the update after it.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from edge_agent.ports import ReleaseHealth
from edge_agent.update.rules.model_state import ModelState, Rejected, UpdateTarget
from fleet.protocol.channel import Probation, RolloutRef
from fleet.protocol.messages import ModelReport, UpdateState

MAX_TRIES = 28  # transitions into trying and probation spent on one target: ends any loop nobody foresaw
MIN_TIMED = 20  # run times below which a 95th percentile says little
REMEMBERED = 16  # rolled back targets
NO_HEALTH = ReleaseHealth(requests=0, failures=0)
NO_REASON: dict[str, Any] = {"reason": "", "detail": "", "hint": "", "about": None}

ALLOWED: dict[UpdateState, frozenset[UpdateState]] = {
    "idle": frozenset({"fetching", "committed"}),
    "fetching": frozenset({"verifying", "idle"}),
    "verifying": frozenset({"trying", "idle"}),
    "trying": frozenset({"probation", "rolled_back", "idle"}),
    "probation": frozenset({"committed", "rolled_back"}),
    "committed": frozenset({"fetching", "committed", "rolled_back"}),
    "rolled_back": frozenset({"fetching", "committed", "rolled_back"}),
}


class TransitionError(Exception):
    """A step that the machine does not allow: a bug, never an input."""


def wanted(state: ModelState, target: UpdateTarget, probation: Probation) -> ModelState | None:
    """Begin to move to a target; None when there is nothing to do.

    A target that is the kept, proven `previous` is returned to at once, also from probation: this is how an abort
    works. Otherwise a probation under way is finished first, since it is bounded in time and only a proven release may
    become `previous`. A target that was rolled back in the same rollout and attempt is not tried again; where nothing
    else is to be said, the state says so.

    Args:
        state: of the model.
        target: the release to move to, and the rollout that it comes by.
        probation: the channel's terms for a new release.
    """
    if target.held == state.active:
        return _adopted(state, target)
    if target.held == state.previous and state.state in ("probation", "committed", "rolled_back"):
        return _returned(state, target)
    if state.state not in ("idle", "committed", "rolled_back"):
        return None
    rejection = state.rejection(target)
    if rejection is not None:
        return None if state.reason else _reminded(state, rejection, target.rollout)
    again = state.last == target.key
    fresh = replace(
        state,
        target=target,
        last=target.key,
        probation=probation,
        starts=state.starts if again else 0,
        spent=state.spent if again else 0,
    )
    return replace(moved(fresh, "fetching"), **NO_REASON)


def _adopted(state: ModelState, target: UpdateTarget) -> ModelState | None:
    if state.state == "idle":  # an update that was cut short is no longer wanted
        return replace(moved(state, "committed"), pairing=target.rollout, target=None, **NO_REASON)
    if _same(state.pairing, target.rollout) or state.state in ("fetching", "verifying", "trying"):
        return None  # a step under way ends first
    return replace(state, pairing=target.rollout)


def _returned(state: ModelState, target: UpdateTarget) -> ModelState:
    back = replace(
        state,
        active=state.previous,
        previous=state.active,
        pairing=target.rollout,
        target=None,
        starts=0,
        untried=False,
    )
    if state.state == "probation":  # what never proved itself is not kept as the way back
        back = replace(back, previous=state.older, older=None)
    return replace(moved(back, "committed"), **NO_REASON)


def _reminded(state: ModelState, rejection: Rejected, rollout: RolloutRef | None) -> ModelState:
    """The channel names again what was rolled back here, maybe long ago: the reason is said again, too."""
    detail = f"release {rejection.release} was rolled back here before: {rejection.detail or rejection.reason}"
    again = f"fleet rollout retry {rejection.rollout}" if rejection.rollout else "publish it as a new release"
    return noted(state, rejection.reason or "rolled-back", detail, f"it is not tried again; {again}", about=rollout)


def _same(one: RolloutRef | None, other: RolloutRef | None) -> bool:
    return (one and (one.id, one.attempt)) == (other and (other.id, other.attempt))


def verifying(state: ModelState) -> ModelState:
    """All bytes are here; they are about to be hashed."""
    return moved(state, "verifying")


def trying(state: ModelState) -> ModelState:
    """Every hash is right; the self-test and the first load are about to run.

    Not for the MAX_TRIES-th time: then the target is given up, so the caller looks at the state it gets.
    """
    tried = replace(moved(state, "trying"), spent=state.spent + 1)
    if tried.spent < MAX_TRIES:
        return tried
    detail = f"{state.spent} steps into trying and probation did not commit it; last: {state.detail or 'not known'}"
    return rolled_back(tried, "too-many-tries", detail, "look at the agent's log; the release is not tried again")


def activated(state: ModelState, baseline: ReleaseHealth = NO_HEALTH) -> ModelState:
    """The target serves from here on; what served before becomes `previous`.

    `baseline` is how the release before it did, for `max_p95_ratio`.
    """
    assert state.target is not None
    return replace(
        moved(state, "probation"),
        active=state.target.held,
        previous=state.active,
        older=state.previous,
        pairing=state.target.rollout,
        spent=state.spent + 1,
        untried=False,
        baseline_us=baseline.p95_us if baseline.timed >= MIN_TIMED else 0.0,
    )


def interrupted(state: ModelState, reason: str, detail: str, hint: str = "") -> ModelState:
    """Break off a fetch, a check or a trial that was cut short by something that may pass; it is tried again later.

    Args:
        state: of the model.
        reason: a word of the reference.
        detail: for people.
        hint: a remedy; empty for none.
    """
    return replace(moved(state, "idle"), target=None, reason=reason, detail=detail, hint=hint, about=None)


def killed(state: ModelState, detail: str) -> tuple[ModelState, bool]:
    """The self-test was killed from outside, by an operator or for want of memory; whether it is tried again.

    Once may be bad luck; a release whose self-test is killed every time is not worth more.
    """
    counted = replace(state, starts=state.starts + 1)
    if counted.starts > 1:
        return rolled_back(counted, "selftest-failed", detail, "is there memory enough on the device?"), False
    return interrupted(counted, "interrupted", detail, "it is tried once more"), True


def rolled_back(state: ModelState, reason: str, detail: str, hint: str = "") -> ModelState:
    """Roll a bad target back: the release before serves (again), and the target is not tried again.

    Args:
        state: of the model.
        reason: a word of the reference.
        detail: for people.
        hint: a remedy; empty for none.
    """
    target = state.target
    assert target is not None
    if state.state in ("probation", "committed"):  # committed: untried, and then it failed
        state = replace(state, active=state.previous, previous=state.older, older=None, pairing=None, untried=False)
    rejected = Rejected(*target.key, reason=reason, detail=detail)
    return replace(
        moved(state, "rolled_back"),
        target=None,
        starts=0,
        rejected=(*state.rejected, rejected)[-REMEMBERED:],
        reason=reason,
        detail=detail,
        hint=hint,
        about=target.rollout,
    )


def withdrawn(state: ModelState, reason: str, detail: str, hint: str = "") -> ModelState:
    """Take back a release on probation that cannot go on, for a reason that says nothing about it: the proven one
    serves.

    It is tried again when it is offered again, and MAX_TRIES bounds how often.

    Args:
        state: of the model.
        reason: a word of the reference.
        detail: for people.
        hint: a remedy; empty for none.
    """
    return replace(
        moved(state, "rolled_back"),
        active=state.previous,
        previous=state.older,
        older=None,
        pairing=None,
        target=None,
        reason=reason,
        detail=detail,
        hint=hint,
        about=None,
        untried=False,
    )


def noted(
    state: ModelState, reason: str, detail: str, hint: str = "", *, about: RolloutRef | None = None
) -> ModelState:
    """Note that a target was refused before anything began; the state stays. `about`: the rollout whose release it
    was.

    Args:
        state: of the model.
        reason: a word of the reference.
        detail: for people.
        hint: a remedy; empty for none.
        about: the rollout whose release was refused.
    """
    return replace(state, reason=reason, detail=detail, hint=hint, about=about)


def damaged(state: ModelState, detail: str) -> ModelState:
    """The active release cannot be served from the disk: back to the previous one, and fetch it anew."""
    return replace(
        state,
        state="rolled_back",
        active=state.previous,
        previous=state.older,
        older=None,
        pairing=None,
        target=None,
        starts=0,
        reason="hash-mismatch",
        detail=detail,
        hint="it is fetched again",
        about=None,
        untried=False,
    )


def resumed(state: ModelState, *, to_serve: bool = True) -> ModelState:
    """The agent has started and found this state on disk.

    Fetching and verifying begin anew (what was downloaded is still here). Trying and probation count
    the start: more than `probation.max_starts` of them are a crash loop, which rolls back. A process that
    does not serve (`to_serve`) says nothing about the release on probation, which waits for one that does.
    """
    if state.state in ("fetching", "verifying"):
        return interrupted(state, "interrupted", f"the agent stopped while {state.state}")
    if state.state not in ("trying", "probation") or (state.state == "probation" and not to_serve):
        return state
    counted = replace(state, starts=state.starts + 1)
    if counted.starts > state.probation.max_starts or counted.spent + counted.starts >= MAX_TRIES:
        detail = f"the agent started {counted.starts} times while {state.state}"
        return rolled_back(counted, "crash-loop", detail, "look at the agent's log on the device")
    if state.state == "trying":
        return interrupted(counted, "interrupted", "the agent stopped while trying")
    return counted


def reported(model: str, state: ModelState, channel_version: int, *, progress: float = 0.0) -> ModelReport:
    """Make the hub's report of where a model stands.

    Args:
        model: its name.
        state: of the model.
        channel_version: of the channel's document that the state follows.
        progress: of a fetch, from 0 to 1.
    """
    rollout = state.target.rollout if state.target else state.about or state.pairing
    return ModelReport(
        model=model,
        state=state.state,
        target=state.target.held.release if state.target else None,
        active=state.active.release if state.active else None,
        active_variant=state.active.variant if state.active else "",
        previous=state.previous.release if state.previous else None,
        rollout=rollout.id if rollout else "",
        attempt=rollout.attempt if rollout else 0,
        channel_version=channel_version,
        progress=progress,
        reason=state.reason,
        detail=state.detail,
        hint=state.hint,
        untried=state.untried,
    )


def moved(state: ModelState, new: UpdateState) -> ModelState:
    if new not in ALLOWED[state.state]:
        raise TransitionError(f"{state.state} → {new}")
    return replace(state, state=new)
