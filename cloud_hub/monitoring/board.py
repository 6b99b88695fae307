"""The board on which the hub's running parts record that they work; `health` asks the others and answers for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from cloud_hub.ports import Part

PARTS = ("database", "objects", "broker", "ingest", "clock")
STILL_S = 30.0  # a loop that has not gone round for so long stands still


class StatusBoard:
    """A `Board` in memory."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        starting = Part("starting", "it has not said anything yet")
        self._parts: dict[str, Part] = {"broker": starting, "ingest": starting}
        self._beat = 0.0

    def say(self, part: Literal["broker", "ingest"], wrong: str) -> None:
        """See `Board`."""
        with self._lock:
            self._parts[part] = Part("failed", wrong) if wrong else Part("ok")
            if part == "ingest":
                self._beat = self._now()

    def read(self) -> dict[str, Part]:
        """See `Board`; a loop that stands still has failed, whatever it said last."""
        with self._lock:
            found, silence = dict(self._parts), self._now() - self._beat
        if found["ingest"].state == "ok" and silence > STILL_S:
            found["ingest"] = Part("failed", f"it has stood still for {silence:.0f} s")
        return found
