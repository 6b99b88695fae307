"""The maintenance window of a channel: hours of the day, in UTC, in which devices begin an install."""

from __future__ import annotations

import re

from fleet.protocol.durations import DAY_S
from fleet.protocol.errors import MalformedError

_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


def parse_window(text: str) -> tuple[int, int] | None:
    """`"22:30-05:00"` as seconds after midnight, the end left out; None when `text` is empty: always.

    Raises:
        MalformedError: not of that form, or of no length.
    """
    if not text:
        return None
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise MalformedError(f"window {text!r} is not of the form HH:MM-HH:MM (UTC)", subject="fetching.window")
    hours = [int(part) for part in match.groups()]
    opens, closes = hours[0] * 3600 + hours[1] * 60, hours[2] * 3600 + hours[3] * 60
    if opens == closes:
        raise MalformedError(f"window {text!r} has no length; leave it empty for always", subject="fetching.window")
    return opens, closes


def opens_at(text: str, now: float) -> float:
    """The moment (seconds since 1970, UTC) from which an install may begin: `now` itself inside the window."""
    window = parse_window(text)
    if window is None:
        return now
    opens, closes = window
    second = now % DAY_S
    inside = opens <= second < closes if opens < closes else second >= opens or second < closes
    return now if inside else now + (opens - second) % DAY_S
