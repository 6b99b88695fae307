"""The queue's contract on both databases, and the worker loop."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest

from cloud_hub.errors import InvalidError
from cloud_hub.jobs import queue
from cloud_hub.jobs.worker import Running, run_worker
from tests.support.hub import HubFixture, make_hub
from tests.support.told import told


@pytest.fixture
def jobs(tmp_path: Path, hub_database: str) -> HubFixture:
    return make_hub(tmp_path, database=hub_database)


def test_each_job_is_claimed_once_by_many_workers(jobs: HubFixture) -> None:
    wanted = {queue.submit(jobs.hub, "k", actor="test").id for _ in range(6)}
    got: list[str] = []

    def take(owner: str) -> None:
        while (job := queue.claim(jobs.hub, owner)) is not None:
            got.append(job.id)

    threads = [Thread(target=take, args=(str(n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) <= 6 and set(got) <= wanted
    take("last")
    assert sorted(got) == sorted(wanted)


def test_a_dead_workers_job_is_taken_over_and_at_last_given_up(jobs: HubFixture) -> None:
    job = queue.submit(jobs.hub, "k", actor="test").id
    for attempt in (1, 2, 3):
        taken = queue.claim(jobs.hub, f"w{attempt}")
        assert taken is not None and taken.attempt == attempt
        assert queue.claim(jobs.hub, "other") is None
        jobs.clock.advance(queue.LEASE_S + 1)
    with pytest.raises(queue.LeaseLostError):
        queue.beat(jobs.hub, job, "w1")
    assert queue.claim(jobs.hub, "other") is None
    assert queue.get(jobs.hub, job).state == "failed"
    assert told(jobs.hub) == [("job.failed", job)]


def test_a_heartbeat_keeps_the_job(jobs: HubFixture) -> None:
    job = queue.submit(jobs.hub, "k", actor="test").id
    queue.claim(jobs.hub, "w")
    jobs.clock.advance(queue.LEASE_S - 1)
    queue.beat(jobs.hub, job, "w", step="half", progress=0.5)
    jobs.clock.advance(queue.LEASE_S - 1)
    assert queue.claim(jobs.hub, "other") is None
    assert queue.get(jobs.hub, job).step == "half"


def test_cancelling_stops_a_running_job_at_its_next_step(jobs: HubFixture) -> None:
    job = queue.submit(jobs.hub, "k", actor="test").id

    def work(running: Running) -> dict[str, object]:
        queue.cancel(jobs.hub, job, actor="test")
        running.step("never reached", 1.0)
        raise AssertionError("went on")

    run_worker(jobs.hub, {"k": work}, once=True)
    assert queue.get(jobs.hub, job).state == "cancelled"


def test_a_worker_writes_down_results_and_failures(hub: HubFixture) -> None:
    good = queue.submit(hub.hub, "good", actor="test").id
    bad = queue.submit(hub.hub, "bad", actor="test").id
    odd = queue.submit(hub.hub, "odd", actor="test").id

    def refuse(running: Running) -> dict[str, object]:
        raise InvalidError("no", hint="do this")

    run_worker(hub.hub, {"good": lambda running: {"answer": 42}, "bad": refuse}, once=True)
    assert queue.get(hub.hub, good).result == {"answer": 42}
    assert queue.get(hub.hub, bad).error == "no; do this"
    assert "odd" in queue.get(hub.hub, odd).error
    assert told(hub.hub) == [("job.failed", bad), ("job.failed", odd)]


def test_a_worker_whose_parent_is_gone_takes_no_job(jobs: HubFixture) -> None:
    """It may have ended before the worker had looked for the first time."""
    queue.submit(jobs.hub, "k", actor="test")
    run_worker(jobs.hub, {"k": lambda running: {}}, once=True, parent=os.getppid() + 1)
    assert queue.claim(jobs.hub, "another") is not None
