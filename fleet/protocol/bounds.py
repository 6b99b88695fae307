"""The bounds of a value from outside, in whatever field, so that every database and every reader takes it. Pure.

The wire formats allow more than what any database holds: MessagePack has whole numbers up to 2^64 - 1, NaN and
infinity, and text with NUL in it. A message that decodes is therefore looked over before it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from fleet.protocol.errors import MalformedError

LARGEST = (1 << 63) - 1  # the largest whole number of a 64-bit column
END_OF_TIME = 253_402_128_000.0  # 9999-12-30, Unix seconds: what is shown in any time zone stays in a calendar
WORD = 64  # characters of a word: an id, a version, a reason
TEXT = 10_000  # characters of a sentence; the rest is cut off
DIGITS = 18  # of a whole number in a text: within 64 bits
DEPTH = 16  # levels of lists and mappings within each other
VALUES = 65_536  # values in one document: a message of 64 KiB holds no more


def check_time(value: float, subject: str) -> float:
    """Return a moment in Unix seconds when it lies between 1970 and the year 9999; MalformedError otherwise."""
    if not 0.0 <= value < END_OF_TIME:  # false for NaN, too
        raise MalformedError(f"{subject}: {value} is no moment between 1970 and the year 9999", subject=subject)
    return value


def check_count(value: int, subject: str, most: int = LARGEST) -> int:
    """Return a whole number within its bounds.

    Args:
        value: from outside.
        subject: its name, for the message.
        most: the largest that is taken.

    Raises:
        MalformedError: it is not from 0 to `most`.
    """
    if not 0 <= value <= most:
        raise MalformedError(f"{subject}: {value} is not from 0 to {most}", subject=subject)
    return value


def check_counts(values: Sequence[int], subject: str, most: int = LARGEST) -> Sequence[int]:
    """Return whole numbers when each is from 0 to `most`; MalformedError otherwise.

    Args:
        values: whole numbers.
        subject: the name of the field, for the message.
        most: the highest that is allowed.
    """
    if values:
        check_count(min(values), subject, most)
        check_count(max(values), subject, most)
    return values


def whole_number(text: str) -> int | None:
    """The whole number that a text is, as programs write it: 1 to 18 digits of ASCII; None for any other text.

    `str.isdigit` takes `²`, which `int` refuses, and `int` refuses thousands of digits: both would be a crash.
    """
    return int(text) if 0 < len(text) <= DIGITS and text.isascii() and text.isdigit() else None


def check_word(value: str, subject: str, most: int = WORD) -> str:
    """Return a short printable text, such as an id; MalformedError for an empty, a longer or an unprintable one.

    Args:
        value: a text as it came.
        subject: the name of the field, for the message.
        most: the highest number of characters.
    """
    if not (0 < len(value) <= most and value.isprintable()):
        raise MalformedError(f"{subject}: not 1 to {most} printable characters: {value[:most]!r}", subject=subject)
    return value


def storable(value: Any, subject: str) -> Any:
    """A document as it may be kept: numbers within 64 bits and finite, text without NUL and not without end.

    Text is mended (U+FFFD in place of what no database takes, and cut at `TEXT` characters), since a report must
    not be lost because of the words of an error in it. A number cannot be mended. Most documents are as they may be
    kept, and returned as they are.

    Args:
        value: None, booleans, numbers, text, and lists and mappings of them.
        subject: names the document in errors.

    Raises:
        MalformedError: a number out of bounds, another type, or nested too deep; the message has its place.
    """
    if _clean(value, 0) <= VALUES:
        return value
    return _Reader(subject).read(value, "", 0)


_DIRTY = VALUES + 1


def _clean(value: Any, depth: int) -> int:
    """Count the values of a document that needs no mending; more than `VALUES` for one that may need it."""
    kind = type(value)
    if kind is str:
        return 1 if len(value) <= TEXT and value.isascii() and "\0" not in value else _DIRTY
    if kind is bool or value is None:
        return 1
    if kind is int:
        return 1 if -LARGEST <= value <= LARGEST else _DIRTY
    if kind is float:
        return 1 if math.isfinite(value) else _DIRTY
    if depth == DEPTH or kind not in (dict, list, tuple):
        return _DIRTY
    values: Iterable[Any] = value
    count = 1
    if kind is dict:
        for name in value:
            if type(name) is not str or len(name) > TEXT or not name.isascii() or "\0" in name:
                return _DIRTY
        count, values = 1 + len(value), value.values()
    elif value and set(map(type, value)) == {int}:  # counts of a histogram
        return 1 + len(value) if min(value) >= -LARGEST and max(value) <= LARGEST else _DIRTY
    for item in values:
        count += _clean(item, depth + 1)
    return count


class _Reader:
    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._left = VALUES

    def read(self, value: Any, place: str, depth: int) -> Any:
        self._left -= 1
        if depth > DEPTH or self._left < 0:
            raise self._wrong(place, f"more than {DEPTH} levels or {VALUES} values")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            if not -LARGEST <= value <= LARGEST:
                raise self._wrong(place, f"{value} does not fit into 64 bits")
            return value
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self._wrong(place, f"{value} is not a finite number")
            return value
        if isinstance(value, str):
            return mended(value)
        if isinstance(value, dict):
            return {self._key(k, place): self.read(v, f"{place}.{str(k)[:WORD]}", depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.read(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
        raise self._wrong(place, f"a {type(value).__name__} cannot be kept")

    def _key(self, key: Any, place: str) -> str:
        if not isinstance(key, str):
            raise self._wrong(place, f"the name {key!r} is not text")
        return mended(key)

    def _wrong(self, place: str, why: str) -> MalformedError:
        return MalformedError(f"{self._subject}{place}: {why}", subject=self._subject)


def mended(text: str) -> str:
    """Text without NUL and lone surrogates, at most `TEXT` characters of it."""
    if len(text) > TEXT:
        text = text[: TEXT - 1] + "…"
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
