"""The time that runs of a release take: by the clock, and of a processor.

A run is slow by its own time, whatever others on a busy device take of the clock meanwhile; whoever waits for one waits
by the clock. Own time is the calling thread's, which is all of a run because a release runs with one thread on the CPU
(`fleet.runtimes.Options`, which the device leaves as they are); with several threads only the clock would tell.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import NamedTuple

from fleet.runtimes.run_costs import RunCosts

SLOW_S = 0.02  # a model slower than this runs in a thread, so that other requests are not held up


class Took(NamedTuple):
    """Seconds of one run."""

    clock: float
    own: float


def run_costs() -> RunCosts:
    """As a device judges runs: a warm-up has measured the first one before any request; other work of the device
    interrupts some; what is large here has many rows, each of which costs the same."""
    return RunCosts(unknown_s=0.0, growth=2.0, interrupted=1)


class RunTimes:
    """Of one release, by the number of values in its inputs; see `RunCosts`."""

    def __init__(self) -> None:
        self._own, self._clock = run_costs(), run_costs()

    def learn(self, values: int, took: Took) -> None:
        """A run of so many values took so long."""
        self._own.learn(values, took.own)
        self._clock.learn(values, took.clock)

    def slow(self, values: int) -> bool:
        """Return whether a run of so many values may take so long that it should leave the event loop."""
        return self._own.of(values) > SLOW_S

    def clock_s(self, values: int) -> float:
        """Estimate the seconds until a run of so many values ends, as the device is now."""
        return self._clock.of(values)


def started() -> Callable[[], Took]:
    """Begin to measure a run in this thread; what is returned ends it, in the same thread."""
    before, began = resource.getrusage(resource.RUSAGE_THREAD), time.perf_counter()

    def ended() -> Took:
        clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_THREAD)
        if after.ru_majflt != before.ru_majflt:  # pages came from the disk, and the event loop would wait for them
            return Took(clock, clock)
        own = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return Took(clock, min(clock, own))

    return ended
