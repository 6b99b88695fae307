"""A job in progress: how its kind reports, keeps what is done, and stays leased."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from cloud_hub.context import Hub
from cloud_hub.jobs import queue
from cloud_hub.jobs.tracing import JobTrace
from cloud_hub.store.tables import Job
from fleet.tracing import OFF, Tracer

log = logging.getLogger(__name__)
BEAT_S = 5.0
LOOK_S = 1.0


class Running:
    """A job in progress, as its kind sees it. `step` and `save` may raise to stop it."""

    def __init__(self, hub: Hub, job: Job, owner: str, tracer: Tracer = OFF) -> None:
        self.hub, self.job, self.owner = hub, job, owner
        self.trace = JobTrace(tracer, job, hub.clock())
        self.saved: dict[str, Any] = dict(job.result)
        self.ended = threading.Event()
        self._last = self._looked = -math.inf

    def step(self, name: str, progress: float) -> None:
        """Say where the job is (0 to 1); written at most four times a second unless the step changes."""
        self.trace.step(name)
        now = time.monotonic()
        if name == self.job.step and now - self._last < 0.25:
            return
        self.job.step, self._last = name, now
        queue.beat(self.hub, self.job.id, self.owner, step=name, progress=progress)

    def save(self, **values: Any) -> None:
        """Keep what is done, for the result and for whoever goes on after this worker's death."""
        self.saved |= values
        queue.beat(self.hub, self.job.id, self.owner, result=dict(self.saved))

    def check(self) -> None:
        """Raise CancelledError or LeaseLostError when the job is not to go on; looks once a second, changes nothing."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            queue.check(self.hub, self.job.id, self.owner)

    def keep_alive(self) -> None:
        """Renew the lease until `ended`, for steps that say nothing for long."""
        while not self.ended.wait(BEAT_S):
            try:
                queue.beat(self.hub, self.job.id, self.owner)
            except (queue.LeaseLostError, queue.CancelledError):
                return  # the job's own next step meets the same error and ends it
            except Exception:  # the boundary of this thread: the next beat may succeed
                log.exception("job %s: a heartbeat failed", self.job.id)
