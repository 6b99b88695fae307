"""Numbers, moments and documents in the words of the pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fleet.api.durations import time_span

LONGEST = 120  # characters of a value in a line
SAFE = (0.0, 253_402_300_799.0)  # Unix seconds that a calendar can say


def ago(at: float | None, now: float) -> str:
    """`12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`; `in 3 min` of what is to come."""
    if at is None:
        return "never"
    told = time_span(abs(now - at))
    return f"{told} ago" if at <= now else f"in {told}"


def counted(number: int, noun: str) -> str:
    """`1 device`, `1,203 devices`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def size(number: float) -> str:
    """`812 B`, `3.4 MB`."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def moment(at: float | None) -> str:
    """`2026-11-30 13:05 UTC`, or a dash; the page's script puts it into local time."""
    return "–" if at is None else f"{_date(at):%Y-%m-%d %H:%M} UTC"


def iso(at: float) -> str:
    """The moment as a `<time>` has it."""
    return f"{_date(at):%Y-%m-%dT%H:%M:%SZ}"


def _date(at: float) -> datetime:
    """A device's clock may say anything."""
    return datetime.fromtimestamp(min(max(at, SAFE[0]), SAFE[1]), UTC)


def number(value: float) -> str:
    """Three digits, with a power of ten when it is large."""
    return f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """`97.3 %`, or a dash when there is nothing to share."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def failed(unanswered: int, refused: int, *, counted: bool = True) -> str:
    """The requests that nobody answered, with the refused ones among them: `12 (9 refused)`. Where no window was
    counted at all, nobody knows that none failed."""
    if not counted:
        return "nothing counted"
    return f"{unanswered:,}" + (f" ({refused:,} refused)" if refused else "")


def sentence(detail: Any) -> str:
    """A document in one short line."""
    if not isinstance(detail, dict):
        return str(detail)
    return ", ".join(f"{key} {_brief(value)}" for key, value in detail.items() if value not in ("", None, {}, []))


def _brief(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "…"


FILTERS: dict[str, Callable[..., str]] = {
    "ago": ago,
    "counted": counted,
    "size": size,
    "iso": iso,
    "moment": moment,
    "number": number,
    "sentence": sentence,
    "span": time_span,
}
