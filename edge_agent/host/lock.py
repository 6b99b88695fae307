"""One agent per directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from time import sleep

from edge_agent.errors import ConflictError, UsageError

NAME = "run.lock"
TRIES, PAUSE_S = 4, 0.05


@contextlib.contextmanager
def agent_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`.

    Raises:
        UsageError: not an agent's directory. ConflictError: another process holds it.
    """
    if not directory.is_dir():
        raise UsageError(
            f"{directory} is not an agent's directory", hint=f"edge-agent enroll URL --token T --dir {directory}"
        )
    lock = _opened(directory / NAME)
    try:
        _take(lock, directory)
        yield
    finally:
        os.close(lock)


def _opened(path: Path) -> int:
    """A descriptor to lock. Writing is what some network file systems want of who locks; a disk that is mounted
    read-only has none of it, and no file either where no agent ever ran: then the folder itself will do."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path if path.exists() else path.parent, os.O_RDONLY | os.O_CLOEXEC)


def is_running(directory: Path) -> bool:
    """Return whether an agent holds the lock of `directory`; needs no more than to read there, and writes nothing.

    Raises:
        OSError: this user may not look.
    """
    try:
        lock = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _take(lock: int, directory: Path) -> None:
    """Raise ConflictError when an agent has the lock. Who only looks (`is_running`) has it for a moment, too."""
    for left in reversed(range(TRIES)):
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not left:
                raise ConflictError(
                    f"another agent runs in {directory}",
                    subject=str(directory),
                    hint=f"edge-agent status --dir {directory} shows it; end it first, or give this one its own --dir",
                ) from error
            sleep(PAUSE_S)
