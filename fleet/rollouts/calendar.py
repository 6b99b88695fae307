"""Hours of the week in which something may happen, in the local time of a zone.

A window is written as `Mon-Fri 22:00-04:00`, `Sat,Sun`, `22:00-04:00` (every day), or several of these with `;`
between. Its days are those on which it opens: one that opens on Friday at 22:00 closes on Saturday at 04:00. Local
times are read as RFC 5545 (3.3.5) has it: one that a change of the clock skips is as long after midnight as it would
have been without the change, one that comes twice is the first of the two. A window of which nothing is left on such a
day does not open then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.rollouts.errors import PlanError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MIN = 24 * 60
MAX_SPANS = 32
WEEK_S = 7 * 86_400.0
FORM = "such as 'Mon-Fri 22:00-04:00', 'Sat,Sun', '22:00-04:00', or several with ; between"
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
_HOURS = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")

Times = npt.NDArray[np.float64]


class Opening(NamedTuple):
    """From when until when a window is open, Unix seconds."""

    opens: float
    closes: float


class Span(Struct, frozen=True):
    """Days (0 is Monday), and minutes of the local day; one that does not close later than it opens closes on the day
    after."""

    days: tuple[int, ...]
    opens: int
    closes: int


class Calendar(Struct, frozen=True):
    """The hours in which a window is open; without `spans` always."""

    spans: tuple[Span, ...] = ()
    zone: str = "UTC"

    def is_open(self, at: float) -> bool:
        """Tell whether it is open at a moment."""
        return not self.spans or self.next_opening(at).opens <= at

    def next_opening(self, at: float) -> Opening:
        """The one that is open at a moment, or the first after it."""
        return next(opening for opening in self._all(at) if opening.closes > at)

    def next_open(self, at: float) -> float:
        """The first moment from `at` on at which it is open: `at` itself when it is."""
        return max(at, self.next_opening(at).opens) if self.spans else at

    def openings(self, since: float, until: float) -> Iterator[Opening]:
        """The parts between two moments in which it is open, in order."""
        if not self.spans:
            if since < until:
                yield Opening(since, until)
            return
        for opening in self._all(since):
            if opening.opens >= until:
                return
            if opening.closes > since:
                yield Opening(max(since, opening.opens), min(until, opening.closes))

    def closings(self, since: float, until: float) -> tuple[Opening, ...]:
        """The parts between two moments in which it is closed, in order."""
        found, at = [], since
        for opening in self.openings(since, until):
            if opening.opens > at:
                found.append(Opening(at, opening.opens))
            at = opening.closes
        return (*found, Opening(at, until)) if at < until else tuple(found)

    def open_s(self, since: float, until: float) -> float:
        """Seconds that it is open between two moments."""
        return sum(opening.closes - opening.opens for opening in self.openings(since, until))

    def after(self, at: float, seconds: float, until: float) -> float | None:
        """Return the first moment by which it has been open long enough; None when `until` comes first.

        Args:
            at: Unix seconds, from which open time counts.
            seconds: of open time.
            until: Unix seconds, after which nobody looks.
        """
        for opening in self.openings(at, until):
            if seconds <= opening.closes - opening.opens:
                return opening.opens + seconds
            seconds -= opening.closes - opening.opens
        return None

    def words(self, at: float) -> str:
        """A moment as the zone's clocks show it: `Mon 2026-11-30 22:00 Europe/Berlin`."""
        return in_words(at, self.zone)

    def _all(self, since: float) -> Iterator[Opening]:
        """Openings in order, those that touch as one (of a week at most), from one that ends before `since` on."""
        zone = zone_of(self.zone)
        day = datetime.fromtimestamp(since, zone).date() - timedelta(days=2)
        open_now: Opening | None = None
        while True:
            for opens, closes in sorted(self._on(day, zone)):
                if open_now is not None and opens <= open_now.closes and closes - open_now.opens <= WEEK_S:
                    open_now = Opening(open_now.opens, max(open_now.closes, closes))
                    continue
                if open_now is not None:
                    yield open_now
                    opens = max(opens, open_now.closes)
                open_now = Opening(opens, max(opens, closes))
            day += timedelta(days=1)

    def _on(self, day: date, zone: ZoneInfo) -> Iterator[Opening]:
        for span in self.spans:
            if day.weekday() in span.days:
                length = (span.closes - span.opens - 1) % DAY_MIN + 1
                opens, closes = _moment(day, span.opens, zone), _moment(day, span.opens + length, zone)
                if opens < closes:
                    yield Opening(opens, closes)


@lru_cache(maxsize=1024)
def parse_window(text: str, zone: str = "UTC") -> Calendar:
    """A window; an empty text is one that is always open.

    Raises:
        PlanError: it cannot be read, has no length, or no such zone is known here.
    """
    zone_of(zone)
    parts = [part.strip() for part in text.split(";")] if text.strip() else []
    if len(parts) > MAX_SPANS:
        raise PlanError(f"the window has {len(parts)} parts", subject="window", hint=f"give {MAX_SPANS} at most")
    return Calendar(tuple(_span(part) for part in parts), zone)


def _span(text: str) -> Span:
    words = text.split()
    if words and _HOURS.fullmatch(words[-1]):
        return Span(_days(" ".join(words[:-1]), text), *_hours(words[-1]))
    return Span(_days(" ".join(words) or "?", text), 0, DAY_MIN)


def _hours(text: str) -> tuple[int, int]:
    match = _HOURS.fullmatch(text)
    assert match is not None
    hour, minute, to_hour, to_minute = map(int, match.groups())
    opens, closes = hour * 60 + minute, to_hour * 60 + to_minute
    if minute > 59 or to_minute > 59 or opens >= DAY_MIN or closes > DAY_MIN:
        raise PlanError(f"{text!r} are no hours of a day", subject="window", hint="from 00:00 to 24:00")
    if opens == closes:
        hint = "leave the hours out, or write 00:00-24:00, for whole days"
        raise PlanError(f"a window of {text!r} has no length: it can never open", subject="window", hint=hint)
    return opens, closes


def _days(text: str, whole: str) -> tuple[int, ...]:
    """Days such as `Mon-Fri,Sun`; every day for an empty text."""
    found: set[int] = set()
    for part in text.split(",") if text else ["Mon-Sun"]:
        first, dash, last = (word.strip().capitalize() for word in part.partition("-"))
        if first not in DAYS or (dash and last not in DAYS):
            raise PlanError(f"window {whole[:64]!r} cannot be read", subject="window", hint=FORM)
        start, end = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {day % 7 for day in range(start, (end if end >= start else end + 7) + 1)}
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name such as `Europe/Berlin`; PlanError when there is none here."""
    hint = "an IANA name such as Europe/Berlin or UTC; a machine without the database needs the package tzdata"
    try:
        if not _ZONE.fullmatch(name):
            raise ZoneInfoNotFoundError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise PlanError(f"no time zone {name[:64]!r} is known here", subject="time_zone", hint=hint) from None


def in_words(at: float, zone: str) -> str:
    """A moment as the zone's clocks show it: `Mon 2026-11-30 22:00 Europe/Berlin`."""
    local = datetime.fromtimestamp(at, zone_of(zone))
    return f"{DAYS[local.weekday()]} {local:%Y-%m-%d %H:%M} {zone}"


def _moment(day: date, minute: int, zone: ZoneInfo) -> float:
    """Unix seconds of a minute of a local day, which may lie on the next."""
    local = datetime(day.year, day.month, day.day) + timedelta(minutes=minute)
    return local.replace(tzinfo=zone).timestamp()


def closed_s(closed: Sequence[Opening], since: float, until: float) -> float:
    """Seconds of closed hours (see `Calendar.closings`) between two moments."""
    return sum(max(0.0, min(until, part.closes) - max(since, part.opens)) for part in closed)


def closed_since(closed: Sequence[Opening], since: Times) -> Times:
    """Seconds of closed hours from each of these moments to the end of the last."""
    ends = [moment for part in closed for moment in part]
    sums = np.cumsum([0.0, *(part.closes - part.opens for part in closed)])
    before: Times = np.interp(since, ends, np.repeat(sums, 2)[1:-1])
    left: Times = sums[-1] - before
    return left
