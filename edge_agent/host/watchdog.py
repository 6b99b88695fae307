"""Ends an agent that stands still, so that its service manager starts it again.

A model runs in the serving process, and nothing but the process's end ends a run that hangs. On the event loop
it holds up every model, the health endpoints and the judge of its own probation; in a thread it takes one that
nobody gets back. A start of a release on probation counts, so that one that hangs is rolled back as a crash loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import math
import os
import threading
from collections.abc import Callable

from edge_agent.host.notify import ServiceManager

EXIT = 70  # sysexits.h: EX_SOFTWARE; no command of the agent ends with it
TICK_S = 1.0
DUMP_S = 5.0  # for the traces: who reads the log may be what stands still
_STDERR = 2


class Runs:
    """The model runs that are under way in threads. For the event loop only."""

    def __init__(self) -> None:
        self.under_way = self.ended = 0

    def begin(self) -> None:
        """A run goes into a thread."""
        self.under_way += 1

    def end(self) -> None:
        """It came back."""
        self.under_way -= 1
        self.ended += 1


class Patience:
    """Counts looks at which nothing had moved; after `most` of them in a row it is over.

    Looks, not seconds: who stops this process (a suspended machine, a debugger, a paused container) stops them, too.
    """

    def __init__(self, most: int) -> None:
        self._most, self._seen, self._missed = most, -1, 0

    def over(self, beats: int) -> bool:
        """Look once; `beats` differs from the last look's when something moved."""
        self._missed = self._missed + 1 if beats == self._seen else 0
        self._seen = beats
        return self._missed >= self._most


class Watchdog:
    """Watches the event loop and the runs in threads; `limit_s` 0 leaves that to the service manager, if any."""

    def __init__(
        self, limit_s: float, runs: Runs, manager: ServiceManager, end: Callable[[float], None] | None = None
    ) -> None:
        self._limit_s, self._runs, self._manager = limit_s, runs, manager
        self._end = end or end_process
        self._tick_s = min(TICK_S, limit_s / 4) if limit_s > 0 else TICK_S
        self._beats = self._ended = 0

    async def run(self) -> None:
        """Show a sign of life every tick, and have a thread and the service manager watch for it, until cancelled."""
        if self._limit_s <= 0 and not self._manager.there:
            return
        done = threading.Event()
        if self._limit_s > 0:
            threading.Thread(target=self._watch, args=(done,), name="watchdog", daemon=True).start()
        try:
            while True:
                self._beat()
                self._manager.alive()
                await asyncio.sleep(self._tick_s)
        finally:
            done.set()

    def _beat(self) -> None:
        # Long runs one after the other are no standstill: what counts is that one ends now and then.
        if not self._runs.under_way or self._runs.ended != self._ended:
            self._beats += 1
        self._ended = self._runs.ended

    def _watch(self, done: threading.Event) -> None:
        patience = Patience(math.ceil(self._limit_s / self._tick_s))
        while not done.wait(self._tick_s):
            if patience.over(self._beats):
                self._end(self._limit_s)
                return


def end_process(limit_s: float) -> None:
    """Write every thread's trace to standard error and end: no cleaning up, since that may hang as well.

    What is on the disk is right after a crash at any moment, and so after this one.
    """
    with contextlib.suppress(RuntimeError):  # no thread can be started
        threading.Timer(DUMP_S, os._exit, (EXIT,)).start()
    # Not by `logging`: the thread that stands still may hold its lock.
    text = f"CRITICAL {__name__}: nothing has moved for {limit_s:g} s (a model's run that hangs?); the agent ends\n"
    with contextlib.suppress(OSError):
        os.write(_STDERR, text.encode())
        faulthandler.dump_traceback(_STDERR)
    os._exit(EXIT)
