"""The update machine of one model. Pure: a state and what happened in, a new state out; no I/O, no clock.

    idle → fetching → verifying → trying → probation → committed
                                     └────────┴──────→ rolled_back(reason)

Every new state is on the disk before the step it names is taken, so that after a crash `resumed`
knows what was under way. What serves (`active`) changes on entering probation, and what served
before (`previous`) is kept until the update after it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from edge_agent.ports import Health
from fleet.protocol.channel import Probation, RolloutRef
from fleet.protocol.messages import ModelReport, UpdateState

MAX_TRIES = 28  # transitions into trying and probation spent on one target: ends any loop nobody foresaw
MIN_TIMED = 20  # run times below which a 95th percentile says little
REMEMBERED = 16  # rolled back targets
NOT_AGAIN = "look at the agent's log; the release is not tried again"
NO_HEALTH = Health(requests=0, failures=0)
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

Key = tuple[int, str, str, int]


class Held(Struct, frozen=True, kw_only=True):
    """A release in the store: its number, the chosen variant, and the SHA-256 of its manifest."""

    release: int
    variant: str
    manifest: str


class Rejected(Struct, frozen=True, array_like=True):
    """A target that was rolled back, and why: its key, then the reason."""

    release: int
    variant: str
    rollout: str
    attempt: int
    reason: str = ""
    detail: str = ""

    @property
    def key(self) -> Key:
        """As `Target.key`."""
        return self.release, self.variant, self.rollout, self.attempt


class Target(Struct, frozen=True, kw_only=True):
    """What the device is moving to. `rollout` is set while it is in that rollout's cohort."""

    held: Held
    rollout: RolloutRef | None = None

    @property
    def key(self) -> Key:
        """What a rollback forbids: (release, variant, rollout, attempt)."""
        rollout = self.rollout
        return self.held.release, self.held.variant, rollout.id if rollout else "", rollout.attempt if rollout else 0


class ModelState(Struct, frozen=True, kw_only=True):
    """One model's machine. `starts` counts agent starts while trying or in probation; `spent` the
    transitions that `last` (a target's key) has cost since it was last committed; `pairing` is the rollout
    that `active` belongs to; `baseline_us` what the release before the one on probation took, 0 if unknown;
    `about` the rollout whose release `reason` speaks of, where it speaks of one that is not active; `untried` whether
    `active` was committed by its self-test alone, since no request had come, and none has been answered since.
    """

    state: UpdateState = "idle"
    active: Held | None = None
    previous: Held | None = None
    older: Held | None = None
    target: Target | None = None
    pairing: RolloutRef | None = None
    rejected: tuple[Rejected, ...] = ()
    last: Key | None = None
    starts: int = 0
    spent: int = 0
    probation: Probation = Probation()
    baseline_us: float = 0.0
    reason: str = ""
    detail: str = ""
    hint: str = ""
    about: RolloutRef | None = None
    untried: bool = False

    @property
    def committed(self) -> int | None:
        """The number of the release that passed its probation: what a rollout may start from."""
        held = self.previous if self.state == "probation" else self.active
        return held.release if held is not None else None

    @property
    def in_use(self) -> tuple[Held, ...]:
        """Everything that must stay in the store."""
        held = (self.active, self.previous, self.older, self.target.held if self.target else None)
        return tuple(h for h in held if h is not None)

    def rejection(self, target: Target) -> Rejected | None:
        """Why `target` is not tried again; None when it may be."""
        return next((rejected for rejected in self.rejected if rejected.key == target.key), None)


class TransitionError(Exception):
    """A step that the machine does not allow: a bug, never an input."""


def wanted(state: ModelState, target: Target, probation: Probation) -> ModelState | None:
    """Begin to move to `target`; None when there is nothing to do.

    A target that is the kept, proven `previous` is returned to at once, also from probation: this is
    how an abort works. Otherwise a probation under way is finished first, since it is bounded in
    time and only a proven release may become `previous`. A target that was rolled back in the same
    rollout and attempt is not tried again; where nothing else is to be said, the state says so.
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
        state, target=target, last=target.key, probation=probation,
        starts=state.starts if again else 0, spent=state.spent if again else 0,
    )  # fmt: skip
    return replace(_to(fresh, "fetching"), **NO_REASON)


def _adopted(state: ModelState, target: Target) -> ModelState | None:
    if state.state == "idle":  # an update that was cut short is no longer wanted
        return replace(_to(state, "committed"), pairing=target.rollout, target=None, **NO_REASON)
    if _same(state.pairing, target.rollout) or state.state in ("fetching", "verifying", "trying"):
        return None  # a step under way ends first
    return replace(state, pairing=target.rollout)


def _returned(state: ModelState, target: Target) -> ModelState:
    back = replace(
        state, active=state.previous, previous=state.active, pairing=target.rollout, target=None, starts=0,
        untried=False,
    )  # fmt: skip
    if state.state == "probation":  # what never proved itself is not kept as the way back
        back = replace(back, previous=state.older, older=None)
    return replace(_to(back, "committed"), **NO_REASON)


def _reminded(state: ModelState, rejection: Rejected, rollout: RolloutRef | None) -> ModelState:
    """The channel names again what was rolled back here, maybe long ago: the reason is said again, too."""
    detail = f"release {rejection.release} was rolled back here before: {rejection.detail or rejection.reason}"
    again = f"fleet rollout retry {rejection.rollout}" if rejection.rollout else "publish it as a new release"
    return noted(state, rejection.reason or "rolled-back", detail, f"it is not tried again; {again}", about=rollout)


def _same(one: RolloutRef | None, other: RolloutRef | None) -> bool:
    return (one and (one.id, one.attempt)) == (other and (other.id, other.attempt))


def verifying(state: ModelState) -> ModelState:
    """All bytes are here; they are about to be hashed."""
    return _to(state, "verifying")


def trying(state: ModelState) -> ModelState:
    """Every hash is right; the self-test and the first load are about to run.

    Not for the MAX_TRIES-th time: then the target is given up, so the caller looks at the state it gets.
    """
    tried = replace(_to(state, "trying"), spent=state.spent + 1)
    if tried.spent < MAX_TRIES:
        return tried
    detail = f"{state.spent} steps into trying and probation did not commit it; last: {state.detail or 'not known'}"
    return rolled_back(tried, "too-many-tries", detail, "look at the agent's log; the release is not tried again")


def activated(state: ModelState, baseline: Health = NO_HEALTH) -> ModelState:
    """The target serves from here on; what served before becomes `previous`.

    `baseline` is how the release before it did, for `max_p95_ratio`.
    """
    assert state.target is not None
    return replace(
        _to(state, "probation"), active=state.target.held, previous=state.active, older=state.previous,
        pairing=state.target.rollout, spent=state.spent + 1, untried=False,
        baseline_us=baseline.p95_us if baseline.timed >= MIN_TIMED else 0.0,
    )  # fmt: skip


def judged(state: ModelState, health: Health, served_s: float) -> ModelState | None:
    """Probation's end, one way or the other; None while it goes on.

    Health and `served_s`, seconds without a break, are of the process that asks: neither the time in which a
    device was off nor a clock that was set proves a release. Nor does time alone: a release that answered nobody
    though it was asked goes, and one that nobody asked is committed as untried, until its first requests are judged.
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
        done = replace(_to(state, "committed"), untried=not good, target=None, older=None)
        return replace(done, starts=0, last=None, spent=0, **NO_REASON)
    return None


def _tried(state: ModelState, health: Health) -> ModelState | None:
    """The first requests of a release that was committed untried; None while there are none."""
    if state.active is not None and state.previous is not None:  # there is something to go back to
        broken = _broken(replace(state, target=Target(held=state.active, rollout=state.pairing)), health)
        if broken is not None:
            return broken
    return replace(state, untried=False) if health.requests > health.failures else None


def _broken(state: ModelState, health: Health) -> ModelState | None:
    """Rolled back, when more requests failed than the probation allows."""
    allowed = state.probation.max_failures
    if _bad(health) <= allowed:
        return None
    word = "failures" if health.failures else "refusals"
    detail = f"{_bad_in_words(health)}, at most {allowed} {'is' if allowed == 1 else 'are'} allowed to fail"
    return rolled_back(state, word, detail, NOT_AGAIN)


def _bad(health: Health) -> int:
    return health.failures + health.newly_refused


def _bad_in_words(health: Health) -> str:
    words = []
    if health.failures:
        words.append(f"{health.failures} of {health.requests} requests failed")
    if health.newly_refused:
        words.append(
            f"{health.newly_refused} that the release before took were refused ({health.refusal or 'no reason given'})"
        )
    return ", ".join(words)


def _too_slow(state: ModelState, health: Health) -> str:
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


def interrupted(state: ModelState, reason: str, detail: str, hint: str = "") -> ModelState:
    """Fetching, verifying or trying was cut short by something that may pass; it is tried again later."""
    return replace(_to(state, "idle"), target=None, reason=reason, detail=detail, hint=hint, about=None)


def killed(state: ModelState, detail: str) -> tuple[ModelState, bool]:
    """The self-test was killed from outside, by an operator or for want of memory; whether it is tried again.

    Once may be bad luck; a release whose self-test is killed every time is not worth more.
    """
    counted = replace(state, starts=state.starts + 1)
    if counted.starts > 1:
        return rolled_back(counted, "selftest-failed", detail, "is there memory enough on the device?"), False
    return interrupted(counted, "interrupted", detail, "it is tried once more"), True


def rolled_back(state: ModelState, reason: str, detail: str, hint: str = "") -> ModelState:
    """The target is bad: what served before serves (again), and the target is not tried again."""
    target = state.target
    assert target is not None
    if state.state in ("probation", "committed"):  # committed: untried, and then it failed
        state = replace(state, active=state.previous, previous=state.older, older=None, pairing=None, untried=False)
    rejected = Rejected(*target.key, reason=reason, detail=detail)
    return replace(
        _to(state, "rolled_back"), target=None, starts=0, rejected=(*state.rejected, rejected)[-REMEMBERED:],
        reason=reason, detail=detail, hint=hint, about=target.rollout,
    )  # fmt: skip


def withdrawn(state: ModelState, reason: str, detail: str, hint: str = "") -> ModelState:
    """The release on probation cannot go on, for a reason that says nothing about it: what is proven serves.

    It is tried again when it is offered again, and MAX_TRIES bounds how often.
    """
    return replace(
        _to(state, "rolled_back"), active=state.previous, previous=state.older, older=None, pairing=None, target=None,
        reason=reason, detail=detail, hint=hint, about=None, untried=False,
    )  # fmt: skip


def noted(
    state: ModelState, reason: str, detail: str, hint: str = "", *, about: RolloutRef | None = None
) -> ModelState:
    """A target was refused before anything began; the state stays. `about`: the rollout whose release that was."""
    return replace(state, reason=reason, detail=detail, hint=hint, about=about)


def damaged(state: ModelState, detail: str) -> ModelState:
    """The active release cannot be served from the disk: back to the previous one, and fetch it anew."""
    return replace(
        state, state="rolled_back", active=state.previous, previous=state.older, older=None, pairing=None, target=None,
        starts=0, reason="hash-mismatch", detail=detail, hint="it is fetched again", about=None, untried=False,
    )  # fmt: skip


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
    """Where a model stands, for the hub."""
    rollout = state.target.rollout if state.target else state.about or state.pairing
    return ModelReport(
        model=model, state=state.state, target=state.target.held.release if state.target else None,
        active=state.active.release if state.active else None,
        active_variant=state.active.variant if state.active else "",
        previous=state.previous.release if state.previous else None,
        rollout=rollout.id if rollout else "", attempt=rollout.attempt if rollout else 0,
        channel_version=channel_version, progress=progress,
        reason=state.reason, detail=state.detail, hint=state.hint, untried=state.untried,
    )  # fmt: skip


def _to(state: ModelState, new: UpdateState) -> ModelState:
    if new not in ALLOWED[state.state]:
        raise TransitionError(f"{state.state} → {new}")
    return replace(state, state=new)
