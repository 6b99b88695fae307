"""One agent per directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from edge_agent.errors import ConflictError, UsageError


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`.

    Raises:
        UsageError: not an agent's directory. ConflictError: another process holds it.
    """
    if not directory.is_dir():
        raise UsageError(
            f"{directory} is not an agent's directory", hint=f"edge-agent enroll URL --token T --dir {directory}"
        )
    with (directory / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(f"another agent runs in {directory}", subject=str(directory)) from error
        yield


def is_running(directory: Path) -> bool:
    """Whether an agent holds the lock of `directory`."""
    try:
        with only_one(directory):
            return False
    except ConflictError:
        return True
