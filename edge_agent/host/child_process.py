"""The system calls of an agent's process at its own beginning (an end, limits), and the way to kill one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Mapping
from typing import Protocol

MODEL_FILES, MODEL_WRITES = 256, 1 << 20  # open files, and bytes of a file, of a process that runs one model
_PR_SET_PDEATHSIG = 1


class Child(Protocol):
    """The part of an `asyncio.subprocess.Process` that `kill` needs."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...


def end_with_parent() -> None:
    """Let the parent's death end this process: nobody else may drive it, or would read its answer."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_no_core() -> None:
    """Write no core file: it would hold what applications sent, or the device's key."""
    limit({resource.RLIMIT_CORE: (0, 0)})


def limit(limits: Mapping[int, tuple[int, int]]) -> None:
    """Bound this process for good: by resource, the soft limit, and how far beyond it the hard one lies."""
    for kind, (value, beyond) in limits.items():
        resource.setrlimit(kind, (value, value + beyond))


def limit_model(memory_bytes: int, more: Mapping[int, tuple[int, int]] | None = None) -> None:
    """Bound a process that runs one model: its address space in bytes, its files, and `more` (see `limit`)."""
    usual = {
        resource.RLIMIT_AS: (memory_bytes, 0),
        resource.RLIMIT_NOFILE: (MODEL_FILES, 0),
        resource.RLIMIT_FSIZE: (MODEL_WRITES, 0),
    }
    limit({**usual, **(more or {})})


def kill(process: Child) -> None:
    """Kill a process that has not ended yet, and leave it to asyncio to hear how it did.

    `Process.kill` first asks whether it has ended. Where it just has, by itself or for want of memory, that takes the
    status away from asyncio's thread that waits for it, and asyncio then says 255, whatever the status was.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
