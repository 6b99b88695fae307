"""A job's part of a trace: a span from claim to end, and one for each of its steps, in whichever process it was."""

from __future__ import annotations

from cloud_hub.store.tables import Job
from fleet.tracing import Span, Tracer

STEPS = 200  # spans of one job: a search names a step for each trial


class JobTrace:
    """The spans of one attempt. A child process makes none: what it says of its steps comes to the worker."""

    def __init__(self, tracer: Tracer, job: Job, now: float) -> None:
        """Begin the job's span at `now`, Unix seconds, by the hub's clock."""
        self._tracer, self._left = tracer, STEPS
        self._name = ""
        self._step: Span | None = None
        self._job = tracer.begin(f"job {job.kind}", "consumer")
        self._job.put(
            job=job.id,
            model=job.model or None,
            attempt=job.attempt,
            submitted_by=job.created_by or None,
            waited_s=max(0.0, now - job.created_at),
        )

    def step(self, name: str) -> None:
        """The job is at this step now; the one before is over."""
        if name == self._name:
            return
        self._end_step("")
        self._name = name
        if self._left > 0:
            self._left -= 1
            with self._job.inside():
                self._step = self._tracer.begin(name)

    def end(self, state: str, why: str) -> None:
        """The attempt is over; `state` is the job's, `why` it came to nothing."""
        self._end_step(why)
        self._job.put(state=state)
        if why:
            self._job.fail(why)
        self._job.end()

    def _end_step(self, why: str) -> None:
        if self._step is not None:
            if why:
                self._step.fail(why)
            self._step.end()
        self._step = None
