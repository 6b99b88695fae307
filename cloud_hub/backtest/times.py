"""Moments as files write them: Unix seconds, or ISO 8601 with a zone, or without one in a zone that is given. Pure."""

from __future__ import annotations

import math
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from cloud_hub.errors import UsageError

UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
PRESENT = 1e10  # Unix seconds of the year 2286: a larger number counts a smaller unit


class WrongMomentError(ValueError):
    """A value that is no moment, and why."""


def zone_of(name: str) -> tzinfo:
    """A zone by its name, as in `Europe/Berlin`.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise _unknown(name) from error
    except KeyError as error:
        raise _unknown(name) from error


def _unknown(name: str) -> UsageError:
    hint = "a name of the time zone database, as Europe/Berlin or UTC; +02:00 belongs to the moments themselves"
    return UsageError(f"--time-zone: there is no zone {name!r}", subject="--time-zone", hint=hint)


class Moments:
    """Reads moments one after the other; `assumed` says whether one had no zone and none was given."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone, self._last = zone, -math.inf
        self.assumed = False

    def read(self, value: object) -> float:
        """A moment in Unix seconds.

        Of an hour that comes twice, as clocks are set back, a moment without a zone is the second one where the first
        would go back in time.

        Raises:
            WrongMomentError: it is none.
        """
        found = value if isinstance(value, (int, float)) else self._text(str(value).strip())
        unit = next((name for name, many in UNITS.items() if 1 < found / PRESENT < many), "")
        if unit:
            raise WrongMomentError(f"{value!r} are {unit}, not Unix seconds: divide them in the file")
        if not 0 <= found <= PRESENT:
            raise WrongMomentError(f"{value!r} is no moment from 1970 on")
        self._last = float(found)
        return self._last

    def _text(self, text: str) -> float:
        if not text:
            raise WrongMomentError("there is no moment")
        try:
            return float(text)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            words = f"{text[:40]!r} is no moment: ISO 8601 (2026-11-30T14:00+01:00) or Unix seconds are read"
            raise WrongMomentError(words) from error
        if moment.tzinfo is not None:
            return moment.timestamp()
        self.assumed = self.assumed or self._zone is None
        moment = moment.replace(tzinfo=self._zone or ZoneInfo("UTC"))
        first, second = moment.timestamp(), moment.replace(fold=1).timestamp()
        return second if first < self._last <= second else first
