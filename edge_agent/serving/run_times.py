"""The time that runs of a release take: by the clock, and of a processor where the clock makes one look slow.

A run is slow by its own time, whatever others on a busy device take of the clock meanwhile; whoever waits for one waits
by the clock. Own time is the calling thread's, which is all of a run because a release runs with one thread on the CPU
(`fleet.runtimes.Options`, which the device leaves as they are); with several threads only the clock would tell. To ask
for it costs a tenth of a small model's run, so runs that are quick by the clock are not asked.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

from fleet.runtimes.run_costs import RunCosts

SLOW_S = 0.02  # a model slower than this runs in a thread, so that other requests are not held up
QUICK_S = SLOW_S / 2  # by the clock; quicker runs are not slow by their own time


class Took(NamedTuple):
    """Seconds of one run; its own are None where nobody asked."""

    clock: float
    own: float | None = None


def run_costs(unknown_s: float = 0.0) -> RunCosts:
    """As a device judges runs: a warm-up has measured the first one before any request; other work of the device
    interrupts some; what is large here has many rows, each of which costs the same."""
    return RunCosts(unknown_s=unknown_s, growth=2.0, interrupted=1)


class RunTimes:
    """Of one release, by the number of values in its inputs; see `RunCosts`."""

    def __init__(self) -> None:
        self._clock, self._own = run_costs(), run_costs(math.inf)

    def begin(self, values: int) -> Callable[[], Took]:
        """Begin to measure a run of so many values in this thread; what is returned ends it, in the same thread."""
        return _by_both() if self._clock.of(values) > QUICK_S else _by_clock()

    def learn(self, values: int, took: Took) -> None:
        """A run of so many values took so long."""
        self._clock.learn(values, took.clock)
        if took.own is not None:
            self._own.learn(values, took.own)

    def slow(self, values: int) -> bool:
        """Return whether a run of so many values may take so long that it should leave the event loop."""
        return self._clock.of(values) > SLOW_S and self._own.of(values) > SLOW_S

    def clock_s(self, values: int) -> float:
        """Estimate the seconds until a run of so many values ends, as the device is now."""
        return self._clock.of(values)


def _by_clock() -> Callable[[], Took]:
    began = time.perf_counter()
    return lambda: Took(time.perf_counter() - began)


def _by_both() -> Callable[[], Took]:
    before, began = resource.getrusage(resource.RUSAGE_THREAD), time.perf_counter()

    def ended() -> Took:
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_THREAD)
        if after.ru_majflt != before.ru_majflt:  # pages came from the disk, and the event loop would wait for them
            return Took(clock, clock)
        own = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return Took(clock, min(clock, own))

    return ended
