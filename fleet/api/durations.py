"""Durations in words, alike on the command line and on the pages."""

from __future__ import annotations

UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def time_span(seconds: float, decimals: int = 0) -> str:
    """`12 s`, `3 min`, `5 h`, `2 d`: seconds in the largest unit of which there is a whole one.

    Args:
        seconds: 0 or more.
        decimals: digits after the point in minutes, hours and days.
    """
    for unit, name in UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.{decimals}f} {name}"
    return f"{seconds:.0f} s"


def planned_span(seconds: float | None) -> str:
    """`4.5 h`: how long something will take, to a tenth of a unit; `unknown` of None."""
    return "unknown" if seconds is None else time_span(seconds, 1)
