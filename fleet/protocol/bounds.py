"""What a value from outside may be, whatever field it came in, so that every database and every reader takes it. Pure.

The wire formats allow more than what any database holds: MessagePack has whole numbers up to 2^64 - 1, NaN and
infinity, and text with NUL in it. A message that decodes is therefore looked over before it is kept.
"""

from __future__ import annotations

import math
from typing import Any

from fleet.protocol.errors import MalformedError

LARGEST = (1 << 63) - 1  # the largest whole number of a 64-bit column
END_OF_TIME = 253_402_128_000.0  # 9999-12-30, Unix seconds: what is shown in any time zone stays in a calendar
WORD = 64  # characters of a word: an id, a version, a reason
TEXT = 10_000  # characters of a sentence; the rest is cut off
DEPTH = 16  # levels of lists and mappings within each other
VALUES = 65_536  # values in one document: a message of 64 KiB holds no more


def check_time(value: float, subject: str) -> float:
    """Return a moment in Unix seconds when it lies between 1970 and the year 9999; MalformedError otherwise."""
    if not 0.0 <= value < END_OF_TIME:  # false for NaN, too
        raise MalformedError(f"{subject}: {value} is no moment between 1970 and the year 9999", subject=subject)
    return value


def check_count(value: int, subject: str, most: int = LARGEST) -> int:
    """Return a whole number when it is from 0 to `most`; MalformedError otherwise."""
    if not 0 <= value <= most:
        raise MalformedError(f"{subject}: {value} is not from 0 to {most}", subject=subject)
    return value


def check_word(value: str, subject: str, most: int = WORD) -> str:
    """Return a short printable text, such as an id; MalformedError for an empty, a longer or an unprintable one."""
    if not (0 < len(value) <= most and value.isprintable()):
        raise MalformedError(f"{subject}: not 1 to {most} printable characters: {value[:most]!r}", subject=subject)
    return value


def plain(value: Any, subject: str) -> Any:
    """A document as it may be kept: numbers within 64 bits and finite, text without NUL and not without end.

    Text is mended (U+FFFD in place of what no database takes, and cut at `TEXT` characters), since a report must
    not be lost because of the words of an error in it. A number cannot be mended.

    Args:
        value: None, booleans, numbers, text, and lists and mappings of them.
        subject: names the document in errors.

    Raises:
        MalformedError: a number out of bounds, another type, or nested too deep; the message has its place.
    """
    return _Reader(subject).read(value, "", 0)


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
