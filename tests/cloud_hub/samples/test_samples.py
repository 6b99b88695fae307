"""Samples through the real application: taken once, labelled, exported, deleted, frozen."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cloud_hub.samples import snapshots, store
from cloud_hub.store.tables import Device
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample, SampleBatch, SampleReceipt
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.hub import START, HubFixture


def sample(number: int, model: str = "digits") -> Sample:
    x = np.full((1, 4), number, np.float32)
    return Sample(
        id=f"s{number}", model=model, release=1, variant="v", at=START + number, reason="random",
        inputs=(to_array("x", x),), outputs=(to_array("logits", x),), confidence=0.5, prediction=number,
    )  # fmt: skip


@pytest.fixture
def filled(hub: HubFixture) -> HubFixture:
    hub.model()
    assert store.commit(hub.hub, "kiosk-1", [sample(1), sample(2), sample(2)]) == ("s1", "s2")
    return hub


def test_a_repeated_upload_changes_nothing(filled: HubFixture) -> None:
    assert store.commit(filled.hub, "kiosk-1", [sample(2), sample(3)]) == ("s2", "s3")
    listed = filled.client.get("/api/v1/samples?model=digits", headers=filled.auth()).json()["items"]
    assert [row["id"] for row in listed] == ["s1", "s2", "s3"]


def test_a_device_uploads_over_http(hub: HubFixture) -> None:
    hub.model()
    with hub.hub.session() as session:
        session.add(
            Device(
                id="kiosk-1", public_key="", key_fingerprint="", certificate="", certificate_serial="",
                certificate_expires_at=0, channel="stable", enrolled_at=0,
            )
        )  # fmt: skip
    text = hub.hub.device_tokens._make("eld1", "kiosk-1", hub.clock() + 60)
    body = msgspec.msgpack.encode(SampleBatch(samples=(sample(7),)))
    answer = hub.client.post("/device/samples", content=body, headers=hub.auth(text))
    assert msgspec.json.decode(answer.content, type=SampleReceipt).committed == ("s7",)
    shown = hub.client.get("/api/v1/samples/s7", headers=hub.auth()).json()
    assert np.asarray(shown["inputs"][0]["data"], np.float32).tolist() == [7.0] * 4
    assert shown["device_id"] == "kiosk-1"


@pytest.mark.parametrize("label", [10, -1, 99_999_999_999_999_999_999, 2**31, 2**63])
def test_a_class_that_the_model_does_not_have_is_refused(filled: HubFixture, label: int) -> None:
    filled.release()  # of ten classes
    body = {"labels": [{"id": "s1", "label": 9}, {"id": "s2", "label": label}]}
    answer = filled.client.post("/api/v1/samples/labels", json=body, headers=filled.auth())
    assert answer.status_code == 400, answer.text
    assert "s2" in answer.json()["error"] or "label" in answer.json()["error"]
    assert store.get(filled.hub, "s1").label is None  # all or nothing


def put(hub: HubFixture, label: object) -> str:
    """Label a sample; returns what the hub says against it."""
    body = {"labels": [{"id": "s1", "label": label}]}
    answer = hub.client.post("/api/v1/samples/labels", json=body, headers=hub.auth())
    assert answer.status_code in (200, 400), answer.text
    return "" if answer.status_code == 200 else " ".join(map(str, answer.json().values()))


def test_a_class_is_given_by_number_or_name(filled: HubFixture) -> None:
    filled.release(labels=("cat", "dog", *"23456789"))
    assert put(filled, "dog") == "" and store.get(filled.hub, "s1").label == 1
    assert put(filled, 0) == "" and store.get(filled.hub, "s1").label == 0
    for wrong in ("cow", 1.5, "0;1", "", True, "1.0"):
        assert put(filled, wrong), wrong
    said = put(filled, "cow")
    assert "'cow' is no label of a classification" in said and "a number from 0 to 9, or a class name: cat, dog" in said
    assert store.get(filled.hub, "s1").label == 0


LONE = (Tensor(name="score", datatype="FP32", shape=(-1, 1)),)
TASKS = [
    (TaskSpec(name="anomaly-score", threshold=1.0), 1, 2, "1 (an anomaly) or 0 (none)"),
    (TaskSpec(name="regression", tolerance=1.0, high=5.0), None, 9.5, "a finite number and at most 5"),
    (TaskSpec(name="regression", tolerance=1.0), None, 3, "labels of a regression cannot be kept"),
    (TaskSpec(name="embedding"), None, 7, "printable characters"),
]


@pytest.mark.parametrize(("task", "kept", "wrong", "why"), TASKS)
def test_a_label_is_what_the_models_task_says(
    filled: HubFixture, task: TaskSpec, kept: int | None, wrong: float, why: str
) -> None:
    """A regression took any whole number, as if it were a class."""
    filled.release(labels=(), outputs=LONE, task=task, requires=(f"task:{task.name}",))
    if kept is not None:
        assert put(filled, kept) == "" and store.get(filled.hub, "s1").label == kept
    assert why in put(filled, wrong)
    assert store.get(filled.hub, "s1").label == kept


def test_without_a_release_any_class_may_be_right(filled: HubFixture) -> None:
    assert store.label(filled.hub, {"s1": 41}, by="ada", actor="t") == 1


def test_labels_are_all_or_nothing_and_name_who_said_so(filled: HubFixture) -> None:
    def send(*ids: str) -> int:
        labels = [{"id": key, "label": 5} for key in ids]
        body = {"labels": labels, "by": "ada"}
        return filled.client.post("/api/v1/samples/labels", json=body, headers=filled.auth()).status_code

    assert send("s1", "absent") == 404
    assert store.get(filled.hub, "s1").label is None
    assert send("s1") == 200
    row = store.get(filled.hub, "s1")
    assert (row.label, row.labelled_by) == (5, "ada")
    listed = filled.client.get("/api/v1/samples?labelled=true", headers=filled.auth()).json()["items"]
    assert [item["id"] for item in listed] == ["s1"]


def test_any_data_tool_reads_the_export(filled: HubFixture, tmp_path) -> None:
    import duckdb

    store.label(filled.hub, {"s2": 8}, by="ada", actor="test")
    answer = filled.client.get("/api/v1/samples/export?model=digits", headers=filled.auth())
    path = tmp_path / "out.parquet"
    path.write_bytes(answer.content)
    rows = duckdb.sql(f"SELECT id, device, shape, input, label FROM '{path}' ORDER BY id").fetchall()
    assert rows == [("s1", "kiosk-1", [1, 4], [1.0] * 4, None), ("s2", "kiosk-1", [1, 4], [2.0] * 4, 8)]


def test_deleting_removes_the_data_and_no_device_brings_it_back(filled: HubFixture) -> None:
    path = store.get(filled.hub, "s1").path
    assert filled.client.delete("/api/v1/samples/s1", headers=filled.auth()).status_code == 200
    from cloud_hub.samples.parquet import arrays_of

    assert set(arrays_of([filled.hub.objects.get(path).data])) == {"s2"}
    assert store.commit(filled.hub, "kiosk-1", [sample(1)]) == ("s1",)
    assert filled.client.get("/api/v1/samples/s1", headers=filled.auth()).status_code == 404
    store.delete(filled.hub, [store.get(filled.hub, "s2")], actor="test")
    assert not filled.hub.objects.exists(path)


def test_retention_sweeps_old_samples(filled: HubFixture) -> None:
    assert store.sweep(filled.hub) == 0
    filled.clock.advance(31 * 86_400)
    assert store.sweep(filled.hub) == 2


def test_a_snapshot_is_named_by_its_content(filled: HubFixture) -> None:
    first = snapshots.create(filled.hub, "digits", actor="test")
    assert (first.samples, first.labelled) == (2, 0)
    assert snapshots.create(filled.hub, "digits", actor="test").id == first.id
    store.label(filled.hub, {"s1": 3}, by="ada", actor="test")
    second = filled.client.post("/api/v1/snapshots", json={"model": "digits"}, headers=filled.auth()).json()
    assert second["id"] != first.id and second["labelled"] == 1
    dataset = snapshots.load(filled.hub, second["id"])
    assert dataset.label.tolist() == [3, -1] and dataset.inputs["x"].shape == (2, 4)


def test_many_partitions_are_read_by_one_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand small uploads made a snapshot take most of a minute: each was opened in a database of its own."""
    import duckdb

    from cloud_hub.samples import parquet

    parts = [parquet.write("d", [sample(n)]) for n in range(5)]
    opened, connect = [], duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *given: opened.append(given) or connect(*given))
    found = parquet.arrays_of(parts)
    assert set(found) == {f"s{n}" for n in range(5)} and len(opened) == 1
    assert parquet.arrays_of([]) == {}
    assert len(parquet.join(parts, {"s1": (3, "ada")})) > 0 and len(opened) == 3
