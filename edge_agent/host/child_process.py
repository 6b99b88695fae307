"""What every process that the agent starts asks of the system at its own beginning: an end, and limits."""

from __future__ import annotations

import ctypes
import resource
import signal
from collections.abc import Mapping

MODEL_FILES, MODEL_WRITES = 256, 1 << 20  # open files, and bytes of a file, of a process that runs one model
_PR_SET_PDEATHSIG = 1


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
