"""A process with many descriptors open, as one that serves many connections has."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

SELECTS = 1024  # descriptors that select() takes


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """This process has all those open that select() takes."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(2 * SELECTS, before[1])), before[1]))
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while held[-1] < SELECTS:
            held.append(os.dup(held[0]))
        yield
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
