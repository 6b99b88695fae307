"""Keeping the serving process small over many updates, where the C library is glibc.

Each update loads a model in a worker thread and lets another go. glibc gives threads arenas of their own and
keeps what is freed in them, so that the process would creep up with every release; see docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import ctypes

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 1  # requests are answered on one thread; a second arena would only keep what the other has freed


def bound() -> None:
    """Let all threads share the main arena; elsewhere than on glibc nothing happens."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return freed pages to the system. Takes milliseconds: call it off the event loop."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
