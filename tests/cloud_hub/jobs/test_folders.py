"""Files that failed jobs leave on a worker's disk are removed after a while, but for those of a job that can go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloud_hub.execution.port import LOG
from cloud_hub.jobs.folders import EVERY_S, WorkFolders, work_folder
from cloud_hub.jobs.logs import read_log
from cloud_hub.store.tables import Job
from tests.support.hub import START, HubFixture

DAY = 86_400.0


@pytest.fixture
def folders(hub: HubFixture) -> dict[str, Path]:
    """A folder each of a job that failed, one that runs, one that failed later, and one that nobody knows."""
    ended = {"failed": START, "running": None, "later": START + 3 * DAY}
    with hub.hub.session() as session:
        for name, at in ended.items():
            state = "running" if at is None else "failed"
            session.add(
                Job(id=name, kind="retrain", model="m", state=state, created_at=START, created_by="t", ended_at=at)
            )
    found = {}
    for name in (*ended, "stranger"):
        found[name] = work_folder(hub.hub, name)
        (found[name] / "checkpoints").mkdir(parents=True)
        os.utime(found[name], (START, START))
    return found


def test_a_failed_job_s_folder_goes_after_a_week(hub: HubFixture, folders: dict[str, Path]) -> None:
    now = [0.0]
    (folders["failed"] / LOG).write_text("epoch 3\n")  # its worker was killed before it kept that
    (folders["failed"].parent / "gone").symlink_to("nowhere")  # as what another worker removes at this moment
    watched = WorkFolders(hub.hub, lambda: now[0])
    hub.clock.now = START + 6.9 * DAY
    assert watched.look() == [] and all(path.is_dir() for path in folders.values())
    hub.clock.now = START + 7.1 * DAY
    assert watched.look() == []  # it looks once an hour
    now[0] = EVERY_S
    assert watched.look() == ["failed", "stranger"]
    assert [name for name, path in folders.items() if path.is_dir()] == ["running", "later"]
    assert read_log(hub.hub, "failed") == "epoch 3\n"


def test_a_hub_whose_workers_have_no_folder_has_nothing_to_remove(hub: HubFixture) -> None:
    assert WorkFolders(hub.hub).look() == []
