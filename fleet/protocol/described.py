"""Message types are described to msgspec by one thread at a time.

msgspec 0.22 makes a type's description when it first decodes one, and keeps it half made meanwhile: another thread that
decodes the same type for the first time in that moment ends the process with a segmentation fault. A hub that was
started while devices waited for it did.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec

_known: set[Any] = set()
_lock = threading.RLock()  # describing a type may run Python code of its module


def describe_type(kind: Any) -> None:
    """Let msgspec look at a type before it is used; what msgspec does not take is left to whoever decodes it."""
    if kind not in _known:
        with _lock:
            try:
                msgspec.json.Decoder(kind)
            except (TypeError, NameError):  # of a type that is never decoded, such as one with arrays in it
                return
            finally:
                _known.add(kind)


def describe_all() -> None:
    """Describe every struct that has been imported: before a process starts its threads."""
    for kind in _below(msgspec.Struct):
        describe_type(kind)


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
