"""The retrain job as a whole: labelled samples in, a published release and its auditor out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cloud_hub.execution.here import InlineExecutor
from cloud_hub.jobs import queue
from cloud_hub.jobs.worker import run_worker
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.store.tables import ChannelRow, Model, Release, RolloutRow
from cloud_hub.training import gate
from cloud_hub.training.kinds import kinds
from cloud_hub.trust.rows import get_release
from examples.digits import data, recipe
from examples.digits.recipe import RECIPE
from fleet.protocol.channel import decode_channel
from fleet.protocol.manifest import decode_manifest
from tests.support.hub import HubFixture

torch.set_num_threads(1)


@pytest.fixture
def digits(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> HubFixture:
    """A model with the example's recipe in a quick form, and a snapshot of labelled, turned images."""
    hyper = replace(RECIPE.hyper, teacher_epochs=12, student_epochs=12, warm_epochs=12)
    quick = replace(RECIPE, hyper=hyper, targets=("litert-int8", "litert-fp32"))
    monkeypatch.setattr("examples.digits.recipe.RECIPE", quick)
    with hub.hub.session() as session:
        session.add(Model(name="digits", recipe="examples.digits.recipe", created_at=0))
    return hub


def snapshot(hub: HubFixture, labels: bool = True) -> str:
    x, y = data.splits(0)["traffic"]
    x, y = data.turned(x[:120], 15, 20, 1), y[:120] if labels else np.full(120, -1)
    return snapshots.save(hub.hub, "digits", Dataset({"x": x}, y, np.arange(120).astype(str)), actor="test").id


def retrain(hub: HubFixture, **options: object) -> queue.Job:
    answer = hub.client.post("/api/v1/models/digits/retrain", json=options, headers=hub.auth())
    assert answer.status_code == 201, answer.text
    run_worker(hub.hub, kinds(InlineExecutor()), once=True)
    return queue.get(hub.hub, answer.json()["id"])


def test_without_human_labels_the_gate_refuses(digits: HubFixture) -> None:
    job = retrain(digits, snapshot=snapshot(digits, labels=False))
    assert job.state == "failed" and "no human label" in job.error and "label at least 4" in job.error


def test_labels_of_the_recipe_s_own_held_out_rows_judge_nothing_and_it_is_said(digits: HubFixture) -> None:
    """As one gets them who asks the device what the verdict was measured on, and labels these samples."""
    own = data.splits(0)["validation"]
    named = Dataset({"x": own[0][:40]}, own[1][:40], np.arange(40).astype(str))
    job = retrain(digits, snapshot=snapshots.save(digits.hub, "digits", named, actor="test").id)
    assert job.state == "failed" and "of 40 in the snapshot, nearly all are of inputs that the recipe's" in job.error
    assert "label samples of other inputs" in job.error


def test_a_search_scores_what_each_trial_has_trained(digits: HubFixture) -> None:
    space = {"student_epochs": [1, 12], "teacher_epochs": [2]}
    options = {"space": space, "trials": 3, "snapshot": snapshot(digits)}
    answer = digits.client.post("/api/v1/models/digits/tune", json=options, headers=digits.auth())
    assert answer.status_code == 201, answer.text
    run_worker(digits.hub, kinds(InlineExecutor()), once=True)
    job = queue.get(digits.hub, answer.json()["id"])
    assert job.state == "succeeded", job.error
    scores = {trial["hyper"]["student_epochs"]: trial["score"] for trial in job.result["trials"]}
    assert job.result["best"]["hyper"] == {"student_epochs": 12, "teacher_epochs": 2}
    assert scores[1] < scores[12] <= 1 and job.result["best"]["metric"] == "accuracy"


def on_a_channel(hub: HubFixture) -> None:
    """A first release by the job, then a channel that holds it."""
    first = retrain(hub, snapshot=snapshot(hub))
    assert first.state == "succeeded", first.error
    assert first.result["release"] == 1 and first.result["status"] == "published"
    assert first.result["gate_new"] > 0.5 and "gate_old" not in first.result
    answer = hub.client.put("/api/v1/channels/stable/models/digits", json={"release": 1}, headers=hub.auth())
    assert answer.status_code == 200, answer.text


def test_the_next_release_is_compared_audits_and_is_rolled_out(
    digits: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MARGIN", 0.5)  # which 30 labels can show
    on_a_channel(digits)
    options = {"channel": "stable", "rollout": {"stages": [50, 100]}, "seed": 1, "max_bytes": 6500}
    job = retrain(digits, snapshot=snapshot(digits), **options)
    assert job.state == "succeeded", job.error
    assert job.result["release"] == 2 and job.result["gate_release"] == 1
    assert job.result["gate_labels"] == 30 and 0.5 < job.result["gate_old"] <= 1.0
    with digits.hub.reading() as session:
        old, new = (decode_manifest(get_release(session, "digits", number).manifest) for number in (1, 2))
        channel = decode_channel(session.get(ChannelRow, "stable").document).models["digits"]
        rollout = session.get(RolloutRow, job.result["rollout"])
    update, whole = (job.result[key]["litert-int8"] for key in ("update_bytes", "whole_bytes"))
    assert update <= 6500 < 0.3 * whole
    assert {name: part["labels"] for name, part in job.result["kept"].items()} == {"old": 100, "new": 30}
    assert old.sketch is not None and new.sketch is not None
    assert new.sketch.encoder == old.sketch.encoder and new.lineage.parents == ("release 1",)
    assert channel.release == 1 and channel.audit.auditor == 2 and job.result["gate_shown"] is True
    assert channel.rollout is not None and channel.rollout.release == 2
    assert (rollout.from_release, rollout.release, rollout.state) == (1, 2, "running")


def test_a_teacher_that_is_clearly_worse_is_refused(digits: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_channel(digits)
    untrained = replace(recipe.RECIPE, hyper=replace(recipe.RECIPE.hyper, teacher_epochs=1, teacher_rate=1e-6))
    monkeypatch.setattr(recipe, "RECIPE", untrained)
    job = retrain(digits, snapshot=snapshot(digits), channel="stable")
    assert job.state == "failed" and "held-out labels" in job.error and "release 1" in job.error
    with digits.hub.reading() as session:
        assert session.get(Release, ("digits", 2)) is None
