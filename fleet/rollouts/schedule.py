"""A rollout's schedule: the hours in which it may order the release on devices, and how many of them in a minute.

An order is a share of the channel that a device falls below: the ordered share grows within a stage, in steps of a
minute, while the rollout runs and its window is open. Fleets of more than `LOOKS_PER_S` devices for each second of a
step are stepped less often, by as many more at a time, because every device looks at each step.

The words and the rule by which a rate grows are those of AWS IoT Jobs (`JobExecutionsRolloutConfig`: base rate,
increment factor, number of succeeded things, maximum).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from fleet.rollouts.calendar import Calendar, parse_window
from fleet.rollouts.errors import PlanError

STEP_S = 60.0
LOOKS_PER_S = 50
LEAST_RATE, LARGEST_RATE, USUAL_MOST = 0.01, 100_000.0, 1000.0  # devices per minute
LARGEST_FACTOR = 5.0
LATE_S = 300.0  # a start that lies no longer back was meant for now
LONGEST_S = 366 * 86_400.0
WAVES = 16  # a wave is joined by what is ordered within that part of its stage's age: their number stays small


class Rate(Struct, frozen=True, kw_only=True):
    """Devices per minute: `per_minute`, times `factor` for every `after` devices that have committed the release, to
    `most` at most."""

    per_minute: float
    factor: float = 1.0
    after: int = 1
    most: float = USUAL_MOST

    def at(self, successes: int) -> float:
        """Devices per minute after so many successes."""
        grown = (max(0, successes) // self.after) * math.log(self.factor)
        return min(self.per_minute * math.exp(min(grown, 100.0)), max(self.per_minute, self.most))


class Schedule(Struct, frozen=True, kw_only=True):
    """An operator's schedule: Unix seconds before which nothing is ordered and at which the rollout is over if it has
    not finished, the window (see `calendar`) in the local time of a zone, and the rate."""

    start_at: float | None = None
    expires_at: float | None = None
    window: str = ""
    time_zone: str = "UTC"
    rate: Rate | None = None

    @property
    def calendar(self) -> Calendar:
        """The hours in which the window is open; PlanError where this hub cannot read it."""
        return parse_window(self.window, self.time_zone)

    @property
    def paces(self) -> bool:
        """True if orders have to wait for anything."""
        return bool(self.window) or self.rate is not None or self.start_at is not None


class Wave(Struct, frozen=True, kw_only=True):
    """The devices that were ordered at a time: those below `share_ppm` and above the wave before."""

    share_ppm: int
    at: float


class Ordered(Struct, frozen=True, kw_only=True):
    """The orders of the attempt so far.

    `at` is when devices were ordered last, `credit` the part of a device that the rate allowed then and that was left,
    negative where more had to be ordered at once. `waves` are kept for when devices were asked to join.
    """

    share_ppm: int = 0
    at: float | None = None
    credit: float = 0.0
    waves: tuple[Wave, ...] = ()


def check_schedule(schedule: Schedule, now: float) -> None:
    """Raise PlanError, with what to change, for a schedule that nothing can follow."""
    schedule.calendar  # noqa: B018  it is read
    if schedule.rate is not None:
        _check_rate(schedule.rate)
    start = now if schedule.start_at is None else schedule.start_at
    if not now - LATE_S <= start <= now + LONGEST_S:
        hint = "leave it out to start now; a rollout starts within a year"
        raise PlanError(f"the start, {_said(schedule, start)}, is no time to come", subject="start_at", hint=hint)
    expires = schedule.expires_at
    if expires is not None and not max(start, now) < expires <= max(start, now) + LONGEST_S:
        what = f"the expiry, {_said(schedule, expires)}, does not come within a year after the start"
        raise PlanError(what, subject="expires_at", hint="give a later one, or leave it out")


def _check_rate(rate: Rate) -> None:
    if not LEAST_RATE <= rate.per_minute <= LARGEST_RATE:
        what = f"a rate of {rate.per_minute:g} devices per minute"
        raise PlanError(what + " is none", subject="rate", hint=f"{LEAST_RATE:g} to {LARGEST_RATE:g}")
    if not (1.0 <= rate.factor <= LARGEST_FACTOR and rate.after >= 1):
        hint = f"a factor of 1 to {LARGEST_FACTOR:g} after every 1 or more successes"
        raise PlanError("the rate grows by nothing that makes sense", subject="rate", hint=hint)
    if not LEAST_RATE <= rate.most <= LARGEST_RATE or (rate.factor > 1.0 and rate.most < rate.per_minute):
        what = f"the rate begins with {rate.per_minute:g} devices per minute and grows to {rate.most:g}"
        raise PlanError(what, subject="rate", hint="the maximum is no less than what it begins with")


def _said(schedule: Schedule, at: float) -> str:
    try:
        return schedule.calendar.words(at)
    except (ValueError, OverflowError, OSError):
        return f"{at:g} seconds since 1970"


def open_now(schedule: Schedule, now: float) -> bool:
    """Tell whether the window is open; one that this hub cannot read stays closed."""
    try:
        return schedule.calendar.is_open(now)
    except PlanError:
        return False


def step_s(devices: int) -> float:
    """Seconds between two steps, with so many devices on the channel."""
    return max(STEP_S, devices / LOOKS_PER_S)


class RolloutPace(Struct, frozen=True, kw_only=True):
    """The bounds on a step's orders: devices per minute, seconds between two steps, and the hours of the window."""

    per_minute: float
    step_s: float
    calendar: Calendar


def due(ordered: Ordered, pace: RolloutPace, now: float) -> bool:
    """Tell whether it is time for the next step."""
    return ordered.at is None or now - ordered.at >= pace.step_s


def order(ordered: Ordered, share_ppm: int, places: Sequence[int], pace: RolloutPace, now: float) -> Ordered:
    """Order the release on as many devices as the rate allows `now`, as far as `share_ppm`.

    Time that has passed counts for one step, however long it was, and only while the window was open: a hub that was
    away makes up for nothing. Devices at one place are ordered together, once the rate allows all of them; the very
    first ones at once.

    Args:
        places: of the devices between what has been ordered and `share_ppm`, rising.

    Returns:
        The same when nobody can be ordered yet.
    """
    first = sum(place == places[0] for place in places) if places else 1
    per_s = pace.per_minute / 60.0
    most_s = max(pace.step_s, (first - ordered.credit) / per_s)
    passed = most_s if ordered.at is None else min(pace.calendar.open_s(ordered.at, now), most_s)
    credit = ordered.credit + per_s * passed
    count = min(len(places), math.floor(credit + 1e-6))
    while 0 < count < len(places) and places[count - 1] == places[count]:
        count -= 1
    if count <= 0 and places:
        return ordered
    reached = share_ppm if count == len(places) else places[count - 1] + 1
    left = max(0.0, credit - count) if count else ordered.credit
    grown = replace(ordered, share_ppm=reached, credit=left % 1.0 if count else left)
    return replace(grown, at=now) if count else grown


def with_wave(ordered: Ordered, stage_at: float, now: float) -> Ordered:
    """Add a wave for the devices ordered `now`, in a stage that began at `stage_at`."""
    last = ordered.waves[-1] if ordered.waves else None
    if last is not None and last.at >= stage_at and WAVES * (now - last.at) < now - stage_at:
        waves = (*ordered.waves[:-1], replace(last, share_ppm=ordered.share_ppm))
    else:
        waves = (*ordered.waves, Wave(share_ppm=ordered.share_ppm, at=now))
    return replace(ordered, waves=waves)


def until(ordered: Ordered, now: float) -> Ordered:
    """With no moment after `now`, which a clock wrote that was set back since. Two hubs' clocks differ by less than a
    step, and make no time between two steps longer by that."""
    waves = tuple(replace(wave, at=min(wave.at, now)) for wave in ordered.waves)
    ahead = ordered.at is not None and ordered.at > now + STEP_S
    return replace(ordered, waves=waves, at=now if ahead else ordered.at)


def again(ordered: Ordered, tried: int, now: float) -> Ordered:
    """Return the orders of a new attempt that asks as many devices again as have tried and failed: the rate pays for
    them before it goes on."""
    waves = (Wave(share_ppm=ordered.share_ppm, at=now),) if ordered.share_ppm else ()
    return replace(ordered, waves=waves, at=now, credit=ordered.credit - tried)
