"""One agent per directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

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
    with _opened(directory / "run.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(f"another agent runs in {directory}", subject=str(directory)) from error
        yield


def _opened(path: Path) -> IO[bytes]:
    """Writing is what some network file systems want of who locks; a disk that is mounted read-only has none of it."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640), "r+b", 0)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return path.open("rb")


def is_running(directory: Path) -> bool:
    """Whether an agent holds the lock of `directory`."""
    try:
        with only_one(directory):
            return False
    except ConflictError:
        return True
