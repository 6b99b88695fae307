"""The waiters for a lock, as Linux lists them: a test goes on when somebody really does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edge_agent.update.disk.store import Store


class Waiting:
    """Processes that wait for a blob of `store`."""

    def __init__(self, store: Store) -> None:
        self._file = store.blobs.parent / "blobs.lock"

    def seen(self) -> bool:
        """Tell whether one waits now."""
        mark = f":{self._file.stat().st_ino} " if self._file.exists() else "nothing"
        return any("->" in line and mark in line for line in Path("/proc/locks").read_text().splitlines())


def until(happened: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Look again and again."""
    end = time.monotonic() + deadline_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)
