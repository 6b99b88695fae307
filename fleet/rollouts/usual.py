"""The times and the rate at which a channel's rollouts usually ask devices: part of every new plan. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from fleet.rollouts.schedule import Rate, Schedule, check_schedule


class UsualSchedule(Struct, frozen=True, kw_only=True):
    """A channel's window (see `calendar`) in the local time of a zone, and its rate; empty: any hour, no rate."""

    window: str = ""
    time_zone: str = "UTC"
    rate: Rate | None = None

    def __bool__(self) -> bool:
        return bool(self.window) or self.rate is not None

    def completed(self, asked: Schedule | None) -> Schedule | None:
        """Return `asked` with the usual window and the usual rate where it names none; None: all at once, always."""
        if not self:
            return asked
        found = asked or Schedule()
        if not found.window and self.window:
            found = replace(found, window=self.window, time_zone=self.time_zone)
        return replace(found, rate=found.rate or self.rate)

    def said(self) -> str:
        """In words; empty where there is nothing usual."""
        hours = [f"{self.window} {self.time_zone}"] if self.window else []
        return ", ".join([*hours, *([] if self.rate is None else [_rate(self.rate)])])


def _rate(rate: Rate) -> str:
    grows = f", {rate.factor:g} times as many after every {rate.after} that succeed, {rate.most:g} at most"
    return f"{rate.per_minute:g} devices per minute{grows if rate.factor > 1 else ''}"


def check_usual(usual: UsualSchedule, now: float) -> UsualSchedule:
    """The schedule; PlanError says what of it nothing can follow."""
    check_schedule(Schedule(window=usual.window, time_zone=usual.time_zone, rate=usual.rate), now)
    return usual
