"""A log that cannot be flooded: lines from one place in the code are counted, and left out beyond a number per time.

A client that sends a thousand bad requests a second, or a model that fails on each, would fill the disk that updates
need. The first line after a pause says how many were left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

BURST, WINDOW_S = 20, 10.0


class Seldom(logging.Filter):
    """For a handler: at most `BURST` lines from each place in `WINDOW_S` seconds. From any thread.

    `now` is monotonic, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._places: dict[tuple[str, int], list[float]] = {}  # since, lines, of which left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write a line; the first one after an omission is changed to say how many were left out."""
        now, place = self._now(), (record.pathname, record.lineno)
        seen = self._places.get(place)
        if seen is None or now - seen[0] >= WINDOW_S:
            left_out = int(seen[2]) if seen is not None else 0
            self._places[place] = [now, 1, 0]
            if left_out:
                record.msg = f"{record.getMessage()} ({left_out} more lines like this were left out)"
                record.args = ()
            return True
        seen[1] += 1
        if seen[1] > BURST:
            seen[2] += 1
            return False
        return True
