"""A job's trace: one span from claim to end, and its steps as children, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloud_hub.errors import InvalidError
from cloud_hub.jobs import queue, tracing
from cloud_hub.jobs.worker import Running, run_worker
from tests.support.hub import make_hub
from tests.support.traces import Kept


def train(running: Running) -> dict[str, Any]:
    for name, progress in (("freezing", 0.0), ("fitting", 0.1), ("fitting", 0.2), ("publishing", 0.9)):
        running.step(name, progress)
    return {"release": 2}


def fail(running: Running) -> dict[str, Any]:
    running.step("fitting", 0.1)
    raise InvalidError("no rows", subject="x", hint="label some")


def test_each_step_of_a_job_is_a_span_of_its_trace(tmp_path: Path) -> None:
    kept, hub = Kept(), make_hub(tmp_path)
    job = queue.submit(hub.hub, "train", model="", payload={}, actor="ada")
    hub.clock.advance(7)
    run_worker(hub.hub, {"train": train}, once=True, tracer=kept.tracer("w"))
    whole = kept.one("w", "job train")
    told = {name.removeprefix("edgeloop."): value for name, value in whole.attributes.items()}
    assert told == {"job": job.id, "attempt": 1, "submitted_by": "ada", "waited_s": 7.0, "state": "succeeded"}
    steps = [kept.one("w", name) for name in ("freezing", "fitting", "publishing")]
    assert {one.parent.span_id for one in steps} == {whole.context.span_id}
    ends = [time for one in steps for time in (one.start_time, one.end_time)]
    assert ends == sorted(ends) and ends[-1] <= whole.end_time


def test_a_job_that_fails_says_where_and_why(tmp_path: Path) -> None:
    kept, hub = Kept(), make_hub(tmp_path)
    queue.submit(hub.hub, "train", model="", payload={}, actor="ada")
    run_worker(hub.hub, {"train": fail}, once=True, tracer=kept.tracer("w"))
    for name in ("fitting", "job train"):
        assert kept.one("w", name).status.description == "no rows; label some"
    assert kept.one("w", "job train").attributes["edgeloop.state"] == "failed"


def test_a_search_of_a_thousand_trials_makes_no_thousand_spans(tmp_path: Path) -> None:
    kept, hub = Kept(), make_hub(tmp_path)
    job = queue.submit(hub.hub, "tune", model="", payload={}, actor="ada")
    trace = tracing.JobTrace(kept.tracer("w"), job, hub.clock())
    for number in range(tracing.STEPS + 50):
        trace.step(f"trial {number}")
    trace.end("succeeded", "")
    assert sum(map(len, kept.spans.values())) == tracing.STEPS + 1
