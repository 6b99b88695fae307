"""The facts about a rollout's devices, and their standing by assignment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Literal, Protocol

from msgspec import Struct

from fleet.protocol.resolve import cohort_place
from fleet.rollouts.calendar import Opening, closed_s
from fleet.rollouts.claims import SharedInputs
from fleet.rollouts.cohorts import stage_of
from fleet.rollouts.evidence import Arms
from fleet.rollouts.guard import ClassLatency, CohortHealth, by_reason
from fleet.rollouts.matching import Matched
from fleet.rollouts.pairs import Counted, Pairs, counted

Standing = Literal["away", "resting", "failed", "silent", "whole"]
HABIT = 1.5  # times its longest silence in the last weeks: longer is not a device's habit any more


class DeviceFact(Struct, frozen=True, kw_only=True):
    """One device in the rollout's scope, as the hub's database knows it.

    `committed`: it reports the rollout's release as committed in this attempt. `failed`: it reports
    a roll-back or failure of that release in this attempt, with `reason` (a stable word). For a
    control device, `failed` means that its own release fails. `pairs` are summed over the attempt.
    `untried`: it committed the release by its self-test alone, and no request has been answered since.
    `quiet_s` is its habit: the longest silence between two of its reports in the last weeks. `silenced_at` is when it
    first was silent beyond that habit in this attempt, None before: that it came back does not undo it.
    `p95_us` is the latency at batch 1 that the device measured of the rollout's release, None before.
    """

    device_id: str
    last_seen: float
    hardware: str = ""
    committed: bool = False
    failed: bool = False
    reason: str = ""
    pairs: Pairs = Pairs()
    untried: bool = False
    p95_us: float | None = None
    quiet_s: float = 0.0
    silenced_at: float | None = None


class RolloutFacts(Struct, frozen=True, kw_only=True):
    """The facts of this moment. `cohort` are the devices that `resolve` assigns to the rollout at the current share,
    `control` the others in its scope. `left` have met the release in this attempt and are in neither any more: pinned,
    relabelled, moved or revoked; their evidence stays. `withdrawn` says why the release may no longer run (halts),
    `superseded` that somebody else changed the channel's default (aborts). Until `deaf_until` (0: never) nobody could
    hear any device, so that its silence says nothing. `matched` are outcomes of both releases, where the policy asks
    for them; `mute` says why no audited pair can come, where that is known. `shared` are the inputs that several
    devices have met."""

    cohort: tuple[DeviceFact, ...] = ()
    control: tuple[DeviceFact, ...] = ()
    left: tuple[DeviceFact, ...] = ()
    deaf_until: float = 0.0
    withdrawn: str = ""
    superseded: str = ""
    matched: Matched | None = None
    mute: str = ""
    shared: SharedInputs = SharedInputs()

    @property
    def size(self) -> int:
        """Devices of the cohort."""
        return len(self.cohort)

    @property
    def met(self) -> int:
        """Devices of the cohort, and those that have left it."""
        return len({fact.device_id for fact in (*self.cohort, *self.left)})

    @property
    def devices(self) -> int:
        """All of the devices."""
        return len(self.cohort) + len(self.control)

    def places(self, salt: str, least: int, below: int) -> Sequence[int]:
        """Return the places of the devices that a larger share takes in, from `least` up to `below` parts per
        million."""
        found = (cohort_place(salt, fact.device_id) for fact in self.control)
        return sorted(place for place in found if least <= place < below)

    def heard_for(self, least_s: float, now: float) -> bool:
        """See `heard_for`."""
        return heard_for(self.deaf_until, least_s, now)

    def tally(self, joined: Joined, silent_after_s: float, now: float) -> tuple[CohortHealth, tuple[Arms, ...]]:
        """See `tally`."""
        return tally(self, joined, silent_after_s, now)

    def silenced(self, joined: Joined, silent_after_s: float, now: float) -> tuple[str, ...]:
        """See `silenced`."""
        return silenced(self, joined, silent_after_s, now)

    def latencies(self) -> tuple[ClassLatency, ...]:
        """See `latencies`."""
        return latencies(self)

    def counted(self, margin: float) -> Counted:
        """The pairs of the cohort and of those that have left it."""
        pairs = {fact.device_id: fact.pairs for fact in (*self.cohort, *self.left)}
        return counted(pairs, margin, shared=self.shared)


class Joined(Struct, frozen=True, kw_only=True):
    """The moments at which devices were assigned to the arms of a rollout's attempt.

    The devices below a share, and not below the one before, were assigned at its time; those beyond the last time, at
    that. The control has been watched since `started_at`. `closed` are the hours in which nobody's silence counts.
    """

    salt: str
    shares_ppm: tuple[int, ...]
    times: tuple[float, ...]
    started_at: float
    closed: tuple[Opening, ...] = ()

    def __call__(self, fact: DeviceFact) -> float:
        """Return the moment at which a device of the cohort was assigned to it."""
        if not self.times:
            return self.started_at
        at, last = stage_of(self.salt, fact.device_id, self.shares_ppm), len(self.times) - 1
        return self.times[last if at is None else min(at, last)]


class Known(Protocol):
    """The facts about the devices that a step needs: `RolloutFacts`, or the same in columns."""

    @property
    def withdrawn(self) -> str: ...

    @property
    def superseded(self) -> str: ...

    @property
    def deaf_until(self) -> float: ...

    @property
    def matched(self) -> Matched | None: ...

    @property
    def mute(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def met(self) -> int: ...

    @property
    def devices(self) -> int: ...

    def places(self, salt: str, least: int, below: int) -> Sequence[int]: ...

    def heard_for(self, least_s: float, now: float) -> bool: ...

    def tally(self, joined: Joined, silent_after_s: float, now: float) -> tuple[CohortHealth, tuple[Arms, ...]]: ...

    def silenced(self, joined: Joined, silent_after_s: float, now: float) -> Sequence[str]: ...

    def latencies(self) -> tuple[ClassLatency, ...]: ...

    def counted(self, margin: float) -> Counted: ...


def heard_for(deaf_until: float, least_s: float, now: float) -> bool:
    """Tell whether devices could be heard for long enough that a silent one is known as such.

    Args:
        deaf_until: Unix seconds at which the last outage ended; 0 without one.
        least_s: seconds that are long enough.
        now: Unix seconds.
    """
    return deaf_until <= 0.0 or now - deaf_until >= least_s


def standing(
    fact: DeviceFact,
    joined: float,
    silent_after_s: float,
    now: float,
    deaf_until: float = 0.0,
    closed: Sequence[Opening] = (),
) -> Standing:
    """Return the standing of a device that was assigned to its arm at `joined`.

    One that has not been heard since well before that is `away`: it has not met the release and says
    nothing about it. One that was alive then and is not heard any more, for longer than is its habit, is `silent`: a
    release that takes a device off the air must not pass for want of reports. Within its habit it says nothing: it is
    `away` before it has committed, so that nobody waits for a device that is off at night, and `resting` after.
    Silence counts from when devices can be heard again (`deaf_until`), and not in `closed` hours; one that was silent
    before, and has not been heard since, stays so.

    Args:
        fact: the device.
        joined: Unix seconds.
        silent_after_s: seconds without a message after which a device may be silent.
        now: Unix seconds.
        deaf_until: Unix seconds until which nobody could hear it; 0 without an outage.
        closed: hours in which its silence does not count.
    """
    if fact.failed:
        return "failed"
    quiet = now - fact.last_seen
    if quiet <= silent_after_s:
        return "whole"
    if fact.last_seen < joined - silent_after_s:
        return "away"
    known = fact.silenced_at is not None and fact.silenced_at >= max(joined, fact.last_seen)
    since = max(fact.last_seen, deaf_until)
    if known or now - since - closed_s(closed, since, now) > max(silent_after_s, HABIT * fact.quiet_s):
        return "silent"
    return "resting" if fact.committed else "away"


def silenced(facts: RolloutFacts, joined: Joined, silent_after_s: float, now: float) -> tuple[str, ...]:
    """Return the devices, in both arms, that are silent now and were not yet known to have been; see `tally`."""
    arms = [(fact, joined(fact)) for fact in facts.cohort] + [(fact, joined.started_at) for fact in facts.control]
    deaf_until, closed = facts.deaf_until, joined.closed
    return tuple(
        fact.device_id
        for fact, since in arms
        if not _was_silent(fact, since) and standing(fact, since, silent_after_s, now, deaf_until, closed) == "silent"
    )


def _was_silent(fact: DeviceFact, since: float) -> bool:
    return fact.silenced_at is not None and fact.silenced_at >= since


def latencies(facts: RolloutFacts) -> tuple[ClassLatency, ...]:
    """Summarise the cohort's measurements of the release, per hardware class; devices that failed are left out."""
    measured: dict[str, list[float]] = {}
    for fact in facts.cohort:
        if fact.p95_us is not None and not fact.failed:
            measured.setdefault(fact.hardware, []).append(fact.p95_us)
    return tuple(
        ClassLatency(hardware=hardware, devices=len(found), p95_us=median(found))
        for hardware, found in sorted(measured.items())
    )


def tally(
    facts: RolloutFacts, joined: Joined, silent_after_s: float, now: float
) -> tuple[CohortHealth, tuple[Arms, ...]]:
    """Count the cohort, and both arms per hardware class.

    In the arms a device fails at most once, when it first failed or was silent, and stays failed: that is what the bets
    on their counts ask for. In the cohort a device that came back is whole again, one that rests is neither present nor
    committed, and one that left counts when it has failed.
    """
    control_since = joined.started_at
    left = [(fact, "failed") for fact in facts.left if fact.failed]
    stand = partial(standing, silent_after_s=silent_after_s, now=now, deaf_until=facts.deaf_until, closed=joined.closed)
    cohort = [*((fact, stand(fact, joined(fact))) for fact in facts.cohort), *left]
    control = [(fact, stand(fact, control_since)) for fact in facts.control]
    rows: dict[str, list[int]] = {}
    for offset, arm in ((0, cohort), (2, control)):
        for fact, stands in arm:
            was_silent = _was_silent(fact, control_since if offset else joined(fact))
            if stands != "away" or was_silent:
                row = rows.setdefault(fact.hardware, [0, 0, 0, 0])
                row[offset] += 1
                row[offset + 1] += stands in ("failed", "silent") or was_silent
    whole = [fact for fact, stands in cohort if stands == "whole"]
    failed = [fact for fact, stands in cohort if stands in ("failed", "silent")]
    health = CohortHealth(
        present=len(whole) + len(failed),
        committed=sum(fact.committed for fact in whole),
        untried=sum(fact.committed and fact.untried for fact in whole),
        failed=len(failed),
        silent=sum(stands == "silent" for _, stands in cohort),
        resting=sum(stands == "resting" for _, stands in cohort),
        pending=sum(not fact.committed for fact in whole),
        reasons=tuple(sorted({fact.reason for fact in failed if fact.failed and fact.reason})[:5]),
        examples=tuple(sorted(fact.device_id for fact in failed)[:5]),
        failures=by_reason((fact.device_id, fact.reason if fact.failed else "silent") for fact in failed),
    )
    arms = tuple(
        Arms(hardware=hardware, cohort=row[0], cohort_failed=row[1], control=row[2], control_failed=row[3])
        for hardware, row in sorted(rows.items())
    )
    return health, arms
