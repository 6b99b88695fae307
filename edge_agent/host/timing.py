"""The sources of time for a part that waits: clocks, a pause, and the randomness that spreads devices out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """`clock` gives Unix seconds, `now` seconds that nobody sets back, `rng` a number in [0, 1)."""

    clock: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic
    rng: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep


SYSTEM = Timing()
