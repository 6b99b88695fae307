"""Real worker processes: two are killed in the middle of a retrain, the next one finishes it, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sqlmodel import select

from cloud_hub.jobs import queue
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.store.tables import Job, Model, Release
from examples.digits import data
from tests.support.hub import HubFixture, make_hub

DEADLINE_S = 300.0  # on a busy machine
RECIPE = """
from dataclasses import replace
from examples.digits.recipe import RECIPE as FULL
RECIPE = replace(FULL, hyper=replace(FULL.hyper, teacher_epochs=4, student_epochs=4), targets=("onnx-fp32",))
"""
# A worker that is killed as it says that it has reached a step.
DOOMED = """
import os, signal, sys
from cloud_hub.jobs.running import Running
at = sys.argv.pop(1)
say = Running.step
def step(self, name, progress):
    say(self, name, progress)
    if name.startswith(at):
        os.kill(os.getpid(), signal.SIGKILL)
Running.step = step
from cloud_hub.main import main
main()
"""


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    made = make_hub(tmp_path, start=time.time())
    (made.hub.config.directory / "recipes").mkdir(exist_ok=True)
    (made.hub.config.directory / "recipes" / "quick.py").write_text(RECIPE)
    with made.hub.session() as session:
        session.add(Model(name="digits", recipe="quick.py", created_at=0))
    return made


def worker(hub: HubFixture, *python: str) -> int:
    """The exit code of one that does one job; `python` says how it begins."""
    command = [sys.executable, *(python or ("-m", "cloud_hub")), "worker", str(hub.hub.config.directory), "--once"]
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=DEADLINE_S, check=False
    ).returncode


def kill_at(hub: HubFixture, job: str, step: str) -> None:
    """Run a worker until `job` reaches `step`, where it is killed, and let its lease run out."""
    assert worker(hub, "-c", DOOMED, step) == -signal.SIGKILL
    with hub.hub.session() as session:
        row = session.get(Job, job)
        assert row is not None and row.state == "running" and row.step.startswith(step)
        row.lease_until = 0.0
        session.add(row)


def test_killed_workers_are_replaced_and_one_release_comes_out(hub: HubFixture) -> None:
    x, y = data.splits(0)["traffic"]
    frozen = snapshots.save(
        hub.hub, "digits", Dataset({"x": x[:80]}, y[:80], np.arange(80).astype(str)), actor="test"
    ).id
    payload = {"snapshot": frozen}
    job = queue.submit(hub.hub, "retrain", model="digits", payload=payload, actor="test").id
    checkpoints = hub.hub.config.directory / "work" / job / "checkpoints"
    for step in ("distilling the student", "publishing"):
        kill_at(hub, job, step)
        assert (checkpoints / "teacher.safetensors").is_file()
    assert worker(hub) == 0
    ended = queue.get(hub.hub, job)
    assert ended.state == "succeeded", ended.error
    assert ended.attempt == 3 and ended.result["release"] == 1
    with hub.hub.reading() as session:
        rows = session.exec(select(Release).where(Release.model == "digits")).all()
    assert [(row.number, row.status) for row in rows] == [(1, "published")]
