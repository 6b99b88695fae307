"""Keeping the serving process small over many updates.

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
