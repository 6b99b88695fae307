"""The auditor after a retrain, and the end of a job that was taken over: the work itself is done by a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load, save_file
from sqlmodel import select

from cloud_hub.execution.port import Progress, Work
from cloud_hub.jobs import queue
from cloud_hub.jobs.running import Running
from cloud_hub.rollouts.create import create_rollout
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.store.tables import ChannelRow, Model, Release
from cloud_hub.training import handing
from cloud_hub.training.handed import RELEASE, Handed
from cloud_hub.training.retrain import PINNED, run_retrain
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.protocol.manifest import encode_manifest
from tests.support.device import follow, publish
from tests.support.hub import HubFixture
from tests.support.loop import manifest_of
from tests.support.models import onnx_bytes, release

GATED = {"gate_labels": 12, "gate_new": 0.9, "gate_old": 0.9, "gate_release": 1}


class Done:
    """Implements `Executor`: a release of some bytes, with the weights of its student."""

    def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        (work.folder / RELEASE).mkdir(exist_ok=True)
        made = release(work.folder / RELEASE / "blobs", data=onnx_bytes(), cloud=True)
        (work.folder / RELEASE / "manifest.json").write_bytes(encode_manifest(made.manifest))
        save_file({"weight": np.ones(3, np.float32)}, work.folder / "student.safetensors")
        return {"gate_labels": 12, "gate_new": 0.9}


def running(hub: HubFixture, saved: dict[str, Any], **options: Any) -> Running:
    """A retrain that a worker has claimed."""
    queue.submit(hub.hub, "retrain", model="tiny", payload=options, actor="test")
    job = queue.claim(hub.hub, "worker")
    assert job is not None
    found = Running(hub.hub, job, "worker")
    found.save(**saved)
    return found


def channel_of(hub: HubFixture) -> Channel:
    with hub.hub.reading() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None
        return decode_channel(row.document)


@pytest.fixture
def tiny(hub: HubFixture, tmp_path: Path) -> HubFixture:
    """Releases 1 and 2; the first is the channel's default, and nobody audits."""
    assert [publish(hub, tmp_path, seed=seed) for seed in (1, 2)] == [1, 2]
    follow(hub, 1)
    return hub


def audited(entry: ModelEntry) -> ModelEntry:
    return replace(entry, audit=replace(entry.audit, auditor=1))


def test_a_live_rollout_keeps_its_auditor(tiny: HubFixture) -> None:
    follow(tiny, 1, audited)
    wanted = {"model": "tiny", "release": 2, "channel": "stable", "stages": [50, 100], "guard": {"evidence": "install"}}
    create_rollout(tiny.hub, **wanted, actor="test")
    before = channel_of(tiny)
    assert before.models["tiny"].rollout is not None
    found = run_retrain(running(tiny, {"release": 2, **GATED, "gate_shown": True}, channel="stable"), Done())
    assert channel_of(tiny) == before
    assert (found["auditor"], found["auditor_why"]) == (1, PINNED)


def test_a_rollout_that_could_never_finish_is_not_started_and_the_release_stays(tiny: HubFixture) -> None:
    saved = {"release": 2, **GATED, "auditor": None}
    found = run_retrain(running(tiny, saved, channel="stable", rollout={}), Done())
    assert (found["release"], found["status"], found["rollout"]) == (2, "published", "")
    assert "no auditor" in str(found["rollout_why"]) and "--auditor" in str(found["rollout_why"])
    assert channel_of(tiny).models["tiny"].rollout is None
    alone = {"stages": [100], "guard": {"evidence": "install"}}
    found = run_retrain(running(tiny, saved, channel="stable", rollout=alone), Done())
    started = channel_of(tiny).models["tiny"].rollout
    assert started is not None and started.id == found["rollout"] and "rollout_why" not in found


def test_an_auditor_that_stays_is_not_published_again(tiny: HubFixture) -> None:
    for shown, auditor in ((False, 1), (True, 2)):
        found = run_retrain(running(tiny, {"release": 2, **GATED, "gate_shown": shown}, channel="stable"), Done())
        before = channel_of(tiny)
        assert before.models["tiny"].audit.auditor == found["auditor"] == auditor
        assert ("12 held-out labels" in str(found.get("auditor_why", ""))) is not shown
        run_retrain(running(tiny, {"release": 2, **GATED, "gate_shown": shown}, channel="stable"), Done())
        assert channel_of(tiny) == before


def test_a_channel_without_the_model_gets_the_new_release_and_the_old_one_audits(tiny: HubFixture) -> None:
    empty = lambda channel: replace(channel, models={})  # noqa: E731
    tiny.hub.publisher.change_channel("stable", empty, actor="test")
    run_retrain(running(tiny, {"release": 2, **GATED, "gate_shown": False}, channel="stable"), Done())
    entry = channel_of(tiny).models["tiny"]
    assert (entry.release, entry.audit.auditor) == (2, 1)


def test_a_job_of_an_earlier_version_has_shown_nothing(tiny: HubFixture) -> None:
    for gated, auditor in ((GATED, 1), ({"gate_labels": 12, "gate_new": 0.9}, 2)):
        found = run_retrain(running(tiny, {"release": 2, **gated}, channel="stable"), Done())
        assert found["auditor"] == channel_of(tiny).models["tiny"].audit.auditor == auditor


def frozen(hub: HubFixture) -> str:
    return snapshots.save(
        hub.hub,
        "tiny",
        Dataset({"input": np.ones((4, 2), np.float32)}, np.zeros(4, int), np.arange(4).astype(str)),
        actor="test",
    ).id


def test_weights_are_kept_by_who_takes_over_behind_the_publication(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.hub.session() as session:
        session.add(Model(name="tiny", created_at=0))
    job = running(hub, {}, snapshot=frozen(hub))

    def die(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(handing, "keep_weights", die)
        run_retrain(job, Done())
    again = Running(hub.hub, queue.get(hub.hub, job.job.id), "worker")
    assert run_retrain(again, Done())["release"] == 1
    assert load(hub.hub.objects.get("weights/tiny/1/student.safetensors").data)["weight"].tolist() == [1, 1, 1]
    with hub.hub.reading() as session:
        rows = session.exec(select(Release).where(Release.model == "tiny")).all()
    assert [(row.number, row.status) for row in rows] == [(1, "published")]


def test_the_weights_of_another_release_do_not_stay_in_the_folder(tiny: HubFixture, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    save_file({"weight": np.ones(3, np.float32)}, folder / "student.safetensors")
    handing.keep_weights(tiny.hub, "tiny", 1, folder)
    known = []
    for number in (1, 2):
        current = (number, manifest_of(tiny, "tiny", number))
        handing.hand_in(tiny.hub, "tiny", folder, frozen(tiny), None, current)
        known.append("weight" in Handed(folder).start["student"])
    assert known == [True, False]
