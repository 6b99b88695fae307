"""Deadline, minimum and maximum speed of a download; a server that drips is left, and resumed later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import urllib3
from msgspec import Struct

from edge_agent.errors import FetchError, UnreachableError

PIECE = 64 << 10


class DownloadPace(Struct, frozen=True, kw_only=True):
    """`deadline_s` bounds the whole (None: only the speed does); `max_bytes_per_s` 0 is no limit."""

    deadline_s: float | None = None
    min_bytes_per_s: float = 100.0
    grace_s: float = 15.0
    max_bytes_per_s: int = 0


def paced(
    read: Callable[[int], bytes],
    pace: DownloadPace,
    *,
    subject: str,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:
    """Yield the pieces that `read` gives, until it gives an empty one.

    Args:
        read: returns at most so many bytes.
        pace: the limits.
        subject: of the errors.
        now: monotonic, seconds.
        sleep: pauses where the pace is too fast.

    Raises:
        FetchError: `too-slow`: the deadline passed, or after `grace_s` the mean speed is too low.
        UnreachableError: the connection broke off.
    """
    started, total = now(), 0
    # A limit of our own must not look like a slow server, nor excuse one.
    floor = min(pace.min_bytes_per_s, pace.max_bytes_per_s / 2) if pace.max_bytes_per_s else pace.min_bytes_per_s
    size = min(PIECE, max(1024, pace.max_bytes_per_s // 10)) if pace.max_bytes_per_s else PIECE
    while True:
        try:
            piece = read(size)
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"{subject} broke off after {total} bytes: {error}", subject=subject) from error
        if not piece:
            return
        total += len(piece)
        spent = now() - started
        if pace.deadline_s is not None and spent > pace.deadline_s:
            raise FetchError(f"{subject} took over {pace.deadline_s:g} s", subject=subject, reason="too-slow")
        if spent > pace.grace_s and total / spent < floor:
            raise FetchError(
                f"{subject} came at {total / spent:.0f} B/s, at least {floor:g} are expected",
                subject=subject,
                reason="too-slow",
                hint="it is resumed later",
            )
        yield piece
        if pace.max_bytes_per_s and (ahead := total / pace.max_bytes_per_s - (now() - started)) > 0:
            sleep(ahead)
