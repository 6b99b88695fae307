"""Keeping the serving process small over many updates and large requests.

Each update loads a model in a worker thread and lets another go. glibc gives threads arenas of their own and
keeps what is freed in them, and Python leaves objects that refer to each other (a subprocess's pipes, say) to a
collection that comes once in thousands of updates: the process would creep up with every release. See
docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 1  # requests are answered on one thread; a second arena would only keep what the other has freed
WORTH = 4 << 20  # bytes; what was held below is used again soon
REST_S = 10.0
_LIBC = ctypes.CDLL(None)  # each CDLL is a class of its own


def bound() -> None:
    """Let all threads share the main arena; elsewhere than on glibc nothing happens."""
    with contextlib.suppress(AttributeError):
        _LIBC.mallopt(_M_ARENA_MAX, _ARENAS)


def begin() -> None:
    """Collect nothing while the process is made, until `freeze`: nearly all of it stays, and to look through it again
    and again takes a tenth of the start."""
    gc.disable()


def freeze() -> None:
    """Leave all that the process is made of out of later collections. Call it once, when it has started.

    Modules and classes are some 50,000 objects: a collection that visits them holds up requests for 10 ms on a PC,
    and one that does not for a fraction of one.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def give_back() -> None:
    """Collect garbage and return freed pages to the system. Takes milliseconds: call it off the event loop."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        _LIBC.malloc_trim(0)


class HeldBytes:
    """Tells when to give back what requests have held: all of it is freed, it was much, and the last time is past."""

    def __init__(self) -> None:
        self._peak = 0  # bytes, since the last time
        self._rests_until = float("-inf")

    def worth_giving_back(self, held: int, now: float) -> bool:
        """Look at the bytes that are held `now` (seconds, monotonic); True once for a peak."""
        self._peak = max(self._peak, held)
        if held or self._peak < WORTH or now < self._rests_until:
            return False
        self._peak, self._rests_until = 0, now + REST_S
        return True
