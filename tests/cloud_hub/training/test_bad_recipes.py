"""Recipes that end, crash or hang: the job says why, its log is kept, and the worker does the next one."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.execution.child import ChildExecutor
from cloud_hub.execution.port import LOG, Limits
from cloud_hub.jobs import queue
from cloud_hub.jobs.running import Running
from cloud_hub.jobs.worker import run_worker
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.store.tables import Model
from cloud_hub.training.kinds import kinds
from tests.support.hub import HubFixture


def queued(hub: HubFixture, name: str, source: str) -> str:
    """A retrain of a model whose recipe is `source`."""
    folder = hub.hub.config.directory / "recipes"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    with hub.hub.session() as session:
        session.add(Model(name=name, recipe=f"{name}.py", created_at=0))
    data = Dataset({"x": np.zeros((8, 2), np.float32)}, np.arange(8) % 2, np.arange(8).astype(str))
    snapshot = snapshots.save(hub.hub, name, data, actor="t").id
    return queue.submit(hub.hub, "retrain", model=name, payload={"snapshot": snapshot}, actor="t").id


def work(hub: HubFixture, executor: ChildExecutor) -> None:
    run_worker(hub.hub, kinds(executor), once=True)


def test_each_bad_end_is_a_failed_job_with_its_reason_and_log(hub: HubFixture) -> None:
    cases = {
        "exits": ("import sys\nprint('before the end')\nsys.exit(4)\n", "sys.exit(4)"),
        "vanishes": ("import os\nprint('before the end', flush=True)\nos._exit(0)\n", "exit code 0 before"),
        "crashes": ("import ctypes\nprint('before the end', flush=True)\nctypes.string_at(0)\n", "SIGSEGV"),
        "raises": ("print('before the end')\n1 / 0\n", "ZeroDivisionError in line 2 of raises.py"),
    }
    jobs = {name: queued(hub, name, source) for name, (source, _) in cases.items()}
    work(hub, ChildExecutor())  # one worker for all of them
    for name, (_, words) in cases.items():
        ended = queue.get(hub.hub, jobs[name])
        assert (ended.state, words in ended.error) == ("failed", True), ended.error
        answer = hub.client.get(f"/api/v1/jobs/{jobs[name]}/log", headers=hub.auth())
        assert answer.status_code == 200 and "before the end" in answer.json()["text"]


def test_a_hung_recipe_is_cancelled(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    job = queued(hub, "hangs", "import time\nprint('waiting', flush=True)\nwhile True:\n    time.sleep(1)\n")
    log = hub.hub.config.directory / "work" / job / LOG
    look = Running.check

    def check(running: Running) -> None:
        if log.exists() and not queue.get(hub.hub, job).cancel_requested:
            queue.cancel(hub.hub, job, actor="t")
        look(running)

    monkeypatch.setattr(Running, "check", check)
    work(hub, ChildExecutor(Limits(wall_s=120.0)))
    assert queue.get(hub.hub, job).state == "cancelled" and log.read_text() == "waiting\n"
