"""What is known about a rollout's devices, and how they stand by assignment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Literal

from msgspec import Struct

from fleet.rollouts.evidence import Arms, Pairs
from fleet.rollouts.guard import CohortHealth, Latency

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


class Facts(Struct, frozen=True, kw_only=True):
    """What is known now. `cohort` are the devices that `resolve` assigns to the rollout at the
    current share, `control` the others in its scope. `left` have met the release in this attempt and are in neither any
    more: pinned, relabelled, moved or revoked; what they showed stays. `withdrawn` says why the release may no longer
    run (halts), `superseded` that somebody else changed the channel's default (aborts). Until `deaf_until` (0: never)
    nobody could hear any device, so that its silence says nothing."""

    cohort: tuple[DeviceFact, ...] = ()
    control: tuple[DeviceFact, ...] = ()
    left: tuple[DeviceFact, ...] = ()
    deaf_until: float = 0.0
    withdrawn: str = ""
    superseded: str = ""

    def heard_for(self, least_s: float, now: float) -> bool:
        """Whether devices could be heard for long enough that who is silent is known."""
        return self.deaf_until <= 0.0 or now - self.deaf_until >= least_s


def standing(fact: DeviceFact, joined: float, silent_after_s: float, now: float, deaf_until: float = 0.0) -> Standing:
    """How a device stands that was assigned to its arm at `joined`.

    One that has not been heard since well before that is `away`: it has not met the release and says
    nothing about it. One that was alive then and is not heard any more, for longer than is its habit, is `silent`: a
    release that takes a device off the air must not pass for want of reports. Within its habit it says nothing: it is
    `away` before it has committed, so that nobody waits for a device that is off at night, and `resting` after.
    Silence counts from when devices can be heard again (`deaf_until`); one that was silent before, and has not been
    heard since, stays so.
    """
    if fact.failed:
        return "failed"
    quiet = now - fact.last_seen
    if quiet <= silent_after_s:
        return "whole"
    if fact.last_seen < joined - silent_after_s:
        return "away"
    known = fact.silenced_at is not None and fact.silenced_at >= max(joined, fact.last_seen)
    if known or now - max(fact.last_seen, deaf_until) > max(silent_after_s, HABIT * fact.quiet_s):
        return "silent"
    return "resting" if fact.committed else "away"


def silenced(
    facts: Facts, joined: Callable[[DeviceFact], float], control_since: float, silent_after_s: float, now: float
) -> tuple[str, ...]:
    """Ids of devices, in both arms, that are silent now and were not yet known to have been; see `tally`."""
    arms = [(fact, joined(fact)) for fact in facts.cohort] + [(fact, control_since) for fact in facts.control]
    return tuple(
        fact.device_id
        for fact, since in arms
        if not _was_silent(fact, since) and standing(fact, since, silent_after_s, now, facts.deaf_until) == "silent"
    )


def _was_silent(fact: DeviceFact, since: float) -> bool:
    return fact.silenced_at is not None and fact.silenced_at >= since


def latencies(facts: Facts) -> tuple[Latency, ...]:
    """What the cohort measured of the release, per hardware class; devices that failed are left out."""
    measured: dict[str, list[float]] = {}
    for fact in facts.cohort:
        if fact.p95_us is not None and not fact.failed:
            measured.setdefault(fact.hardware, []).append(fact.p95_us)
    return tuple(
        Latency(hardware=hardware, devices=len(found), p95_us=median(found))
        for hardware, found in sorted(measured.items())
    )


def tally(
    facts: Facts,
    joined: Callable[[DeviceFact], float],
    control_since: float,
    silent_after_s: float,
    now: float,
) -> tuple[CohortHealth, tuple[Arms, ...]]:
    """Count the cohort, and both arms per hardware class.

    In the arms a device fails at most once, when it first failed or was silent, and stays failed: that is what the bets
    on their counts ask for. In the cohort a device that came back is whole again, one that rests is neither present nor
    committed, and one that left counts when it has failed.

    Args:
        joined: when a cohort device was assigned to the rollout, in Unix seconds.
        control_since: when the control began to be watched, likewise.
    """
    left = [(fact, "failed") for fact in facts.left if fact.failed]
    stand = partial(standing, silent_after_s=silent_after_s, now=now, deaf_until=facts.deaf_until)
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
    )
    arms = tuple(
        Arms(hardware=hardware, cohort=row[0], cohort_failed=row[1], control=row[2], control_failed=row[3])
        for hardware, row in sorted(rows.items())
    )
    return health, arms
