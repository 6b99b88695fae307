"""The retrain job as a whole: labelled samples in, a published release and its auditor out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cloud_hub.jobs import queue
from cloud_hub.jobs.worker import run_worker
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import Dataset
from cloud_hub.store.tables import Model, Release
from examples.digits import data
from examples.digits.recipe import RECIPE
from tests.support.hub import HubFixture

torch.set_num_threads(1)


@pytest.fixture
def digits(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> HubFixture:
    """A model with the example's recipe in a quick form, and a snapshot of labelled, turned images."""
    hyper = replace(RECIPE.hyper, teacher_epochs=12, student_epochs=12)
    quick = replace(RECIPE, hyper=hyper, targets=("litert-int8", "litert-fp32"))
    monkeypatch.setattr("examples.digits.recipe.RECIPE", quick)
    with hub.hub.session() as session:
        session.add(Model(name="digits", recipe="examples.digits.recipe", created_at=0))
    return hub


def snapshot(hub: HubFixture, labels: bool = True) -> str:
    x, y = data.splits(0)["traffic"]
    x, y = data.turned(x[:120], 15, 20, 1), y[:120] if labels else np.full(120, -1)
    return snapshots.save(hub.hub, "digits", Dataset(x, y, np.arange(120).astype(str)), actor="test").id


def retrain(hub: HubFixture, **options: object) -> queue.Job:
    answer = hub.client.post("/api/v1/models/digits/retrain", json=options, headers=hub.auth())
    assert answer.status_code == 201, answer.text
    run_worker(hub.hub, once=True)
    return queue.get(hub.hub, answer.json()["id"])


def test_a_snapshot_becomes_a_published_release(digits: HubFixture) -> None:
    job = retrain(digits, snapshot=snapshot(digits))
    assert job.state == "succeeded", job.error
    assert job.result["release"] == 1 and job.result["status"] == "published"
    assert job.result["gate_new"] > 0.5
    with digits.hub.reading() as session:
        assert session.get(Release, ("digits", 1)) is not None


def test_without_human_labels_the_gate_refuses(digits: HubFixture) -> None:
    job = retrain(digits, snapshot=snapshot(digits, labels=False))
    assert job.state == "failed" and "no human label" in job.error
