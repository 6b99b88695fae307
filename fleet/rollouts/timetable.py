"""The timetable of a rollout by its schedule: its beginning, the orders of each stage, and its end at the earliest."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from msgspec import Struct

from fleet.rollouts.schedule import Rate, Schedule, step_s
from fleet.rollouts.stages import Stage

LONGEST_S = 10 * 365 * 86_400.0


class StageTimes(Struct, frozen=True, kw_only=True):
    """The moments at which a stage begins, the last of its devices is ordered, and it can end, in Unix seconds."""

    begins_at: float
    ordered_at: float
    ends_at: float


class Timetable(Struct, frozen=True, kw_only=True):
    """The earliest times of a rollout: every device succeeds at once, and evidence takes no time.

    `stages` are those that the schedule lets begin within ten years; `ends_at` is None where not all of them can end.
    `begins` and `ends` say the same as the zone's clocks show it.
    """

    stages: tuple[StageTimes, ...]
    ends_at: float | None
    begins: str
    ends: str = ""


def timetable(schedule: Schedule, stages: Sequence[Stage], counts: Sequence[int], now: float) -> Timetable:
    """The earliest times.

    Args:
        counts: devices that each stage holds, those of the stages before among them.

    Raises:
        PlanError: a window or a zone that this hub cannot read.
    """
    calendar = schedule.calendar
    at = first = calendar.next_open(max(now, schedule.start_at or now))
    found: list[StageTimes] = []
    before, waited = 0, inf
    for stage, count in zip(stages, counts, strict=True):
        seconds = 0.0 if schedule.rate is None else ordering_s(schedule.rate, before, count, max(counts), waited)
        ordered = calendar.after(at, seconds, now + LONGEST_S)
        if ordered is None:
            break
        ends = calendar.next_open(ordered + stage.soak_s)
        found.append(StageTimes(begins_at=at, ordered_at=ordered, ends_at=ends))
        at, before, waited = ends, count, ends - ordered
    ends_at = at if len(found) == len(stages) else None
    ends_in_words = "" if ends_at is None else calendar.words(ends_at)
    return Timetable(stages=tuple(found), ends_at=ends_at, begins=calendar.words(first), ends=ends_in_words)


def ordering_s(rate: Rate, before: int, count: int, looking: int, waited: float) -> float:
    """Seconds in which a rate orders the devices after `before`, up to `count`, where each succeeds at once.

    Args:
        looking: devices of the channel; see `schedule.step_s`.
        waited: seconds since the last order, in which the rate has paid for one more device at most.
    """
    seconds, done = 0.0, before
    while done < count:
        per_minute = rate.at(done)
        grows = rate.factor > 1.0 and per_minute < rate.most
        some = min(count - done, rate.after - done % rate.after) if grows else count - done
        seconds += 60.0 * some / per_minute
        done += some
    at_once = max(step_s(looking), min(60.0 / rate.at(before), waited))
    return max(0.0, seconds - at_once)
