"""The number of gRPC calls that a machine has room for."""

from __future__ import annotations

import os

LEAST = 8  # calls at a time, however small the machine
SHARE = 8  # of the machine's memory, the part that messages may take which nobody has counted yet


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def calls_within(memory: int, message: int, most: int) -> int:
    """Return how many calls may run at a time, at most `most`, on a machine with so many bytes of memory.

    gRPC reads a message, of up to `message` bytes, whole before the budget of bytes in flight can refuse it, so a small
    machine takes fewer calls, and so does one that takes large messages.
    """
    return min(most, max(LEAST, memory // SHARE // message))
