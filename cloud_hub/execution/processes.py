"""A process with all that it has started, by /proc: what they use, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


class _Process(NamedTuple):
    """Fields of /proc/PID/stat; `started` in clock ticks tells a process from a later one of the same number."""

    pid: int
    parent: int
    session: int
    started: int
    rss: int


class ProcessTree:
    """The processes of a session, and whatever their descendants are that left it while they were watched."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._known: dict[int, int] = {}

    def memory(self) -> int:
        """Bytes resident in all of them."""
        return sum(process.rss for process in self._look()) * PAGE

    def kill(self) -> None:
        """SIGKILL to all of them, until none is left or nothing more can be done."""
        for _ in range(10):  # one may start another while it is being ended
            alive = self._look()
            if not alive:
                return
            for process in alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)

    def _look(self) -> list[_Process]:
        """Those that are alive now; zombies have ended."""
        found = {process.pid: process for process in _all()}
        known = {pid for pid, started in self._known.items() if pid in found and found[pid].started == started}
        known |= {pid for pid, process in found.items() if self._leader in (pid, process.session)}
        grown = True
        while grown:
            more = {pid for pid, process in found.items() if process.parent in known} - known
            known |= more
            grown = bool(more)
        self._known = {pid: found[pid].started for pid in known}
        return [found[pid] for pid in known]


def _all() -> list[_Process]:
    found = []
    for entry in os.scandir(PROC):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            fields = (PROC / entry.name / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
            if fields[0] not in ("Z", "X"):
                found.append(
                    _Process(int(entry.name), int(fields[1]), int(fields[3]), int(fields[19]), int(fields[21]))
                )
    return found


def bytes_of(folder: Path) -> int:
    """Return the bytes that the files below a folder take on the disk; links are not followed."""
    total, pending = 0, [folder]
    while pending:
        with contextlib.suppress(OSError):  # files come and go
            for entry in os.scandir(pending.pop()):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
