"""The output of a piece of work: kept bounded beside it, and followed while it grows."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cloud_hub.execution.port import LOG_BYTES


def append_log(log: Path, data: bytes) -> None:
    """Append to the log; of a longer one the last two parts stay. A disk that takes none costs the log only."""
    with contextlib.suppress(OSError):
        if log.exists() and log.stat().st_size + len(data) > LOG_BYTES:
            log.replace(before(log))
        with log.open("ab") as file:
            file.write(data)


def before(log: Path) -> Path:
    """Return the path of the earlier part of a log."""
    return log.with_suffix(".txt.1")


class Tail:
    """Reads what `append_log` adds to a log."""

    def __init__(self, log: Path) -> None:
        self._log, self._inode, self._read = log, 0, 0

    def more(self) -> bytes:
        """Return the bytes added since the last call; of many only those that are still kept, 2 LOG_BYTES at most."""
        parts: list[bytes] = []
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if self._inode not in (0, inode):
                with before(self._log).open("rb") as old:
                    old.seek(self._read if os.fstat(old.fileno()).st_ino == self._inode else 0)
                    parts.append(old.read())
                self._read = 0
            file.seek(self._read)
            parts.append(file.read())
            self._inode, self._read = inode, file.tell()
        return b"".join(parts)
