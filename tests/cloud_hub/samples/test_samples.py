"""Samples through the real application: taken once, labelled, exported, deleted, frozen."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_hub.errors import InvalidError
from cloud_hub.samples import snapshots, store
from cloud_hub.samples.dataset import stack
from cloud_hub.store.tables import Device, SampleRow
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample, SampleBatch, SampleReceipt
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import to_array
from fleet.tasks import of
from tests.support.hub import START, HubFixture


def sample(number: int, model: str = "digits") -> Sample:
    x = np.full((1, 4), number, np.float32)
    return Sample(
        id=f"s{number}",
        model=model,
        release=1,
        variant="v",
        at=START + number,
        reason="random",
        inputs=(to_array("x", x),),
        outputs=(to_array("logits", x),),
        confidence=0.5,
        prediction=number,
    )


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
                id="kiosk-1",
                public_key="",
                key_fingerprint="",
                certificate="",
                certificate_serial="",
                certificate_expires_at=0,
                channel="stable",
                enrolled_at=0,
            )
        )
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


def parquet_rows(hub: HubFixture, columns: str) -> list[tuple[Any, ...]]:
    """Columns of the export, as another tool reads them."""
    import duckdb

    data = hub.client.get("/api/v1/samples/export?model=digits", headers=hub.auth()).content
    path = hub.offline.parent / "out.parquet"
    path.write_bytes(data)
    return duckdb.sql(f"SELECT {columns} FROM '{path}' ORDER BY id").fetchall()


LONE = (Tensor(name="score", datatype="FP32", shape=(-1, 1)),)
FOUND = (Tensor(name="found", datatype="FP32", shape=(-1, -1, 6)),)
TWO = (Tensor(name="score", datatype="FP32", shape=(-1, 2)),)
BOXES = [{"box": [0, 0, 2.5, 1], "class": "dog"}]
TASKS: list[tuple[TaskSpec, tuple[Tensor, ...], Any, Any, Any, str]] = [
    (TaskSpec(name="anomaly-score", threshold=1.0), LONE, True, 1, 2, "1 (an anomaly) or 0 (none)"),
    (TaskSpec(name="regression", tolerance=1.0, high=5.0), LONE, 3, 3.0, 9.5, "a finite number and at most 5"),
    (TaskSpec(name="regression", tolerance=1.0), TWO, [1, 2.5], [1.0, 2.5], [1, 2, 3], "a list of 2 numbers"),
    (TaskSpec(name="multi-label"), TWO, ["dog", 0], [0, 1], [2], "a number from 0 to 1"),
    (TaskSpec(name="embedding"), LONE, "ada", "ada", 7, "printable characters"),
    (TaskSpec(name="detection"), FOUND, BOXES, [{"box": [0, 0, 2.5, 1], "class": 1}], [{"box": [1]}], "x1 <= x2"),
    (TaskSpec(name="custom"), LONE, {"a": [None, "ü"]}, {"a": [None, "ü"]}, "x" * 5000, "at most 4096 characters"),
]


@pytest.mark.parametrize(("task", "outputs", "given", "kept", "wrong", "why"), TASKS, ids=[t[0].name for t in TASKS])
def test_a_label_is_what_the_models_task_says_wherever_it_is_shown(
    filled: HubFixture, task: TaskSpec, outputs: tuple[Tensor, ...], given: Any, kept: Any, wrong: Any, why: str
) -> None:
    """Labels were whole numbers only: a regression took 99 as if it were a class, and then kept nothing at all."""
    filled.release(labels=("cat", "dog"), outputs=outputs, task=task, requires=(f"task:{task.name}",))
    assert put(filled, given) == "" and store.get(filled.hub, "s1").label == kept
    assert why in put(filled, wrong)
    assert store.get(filled.hub, "s1").label == kept, "what is refused changes nothing"
    listed = filled.client.get("/api/v1/samples?labelled=true", headers=filled.auth()).json()["items"]
    assert [(item["id"], item["label"]) for item in listed] == [("s1", kept)]
    shown = filled.client.get("/api/v1/samples/s1", headers=filled.auth()).json()
    assert shown["label"] == kept and shown["labelled_by"] == "operator"
    exported = parquet_rows(filled, "id, label, label_json")
    assert [(key, label, json.loads(text or "null")) for key, label, text in exported] == [
        ("s1", kept if type(kept) is int else None, kept),
        ("s2", None, None),
    ]


@pytest.mark.parametrize(
    "text", ["NaN", "[1, Infinity]", "null", "1e999", '"\\u0000"', "[" * 40 + "]" * 40, "18446744073709551616"]
)
def test_no_label_goes_over_the_bounds_of_a_database(filled: HubFixture, text: str) -> None:
    filled.release(labels=(), outputs=LONE, task=TaskSpec(name="custom"), requires=("task:custom",))
    body = f'{{"labels": [{{"id": "s1", "label": {text}}}]}}'
    answer = filled.client.post("/api/v1/samples/labels", content=body, headers=filled.auth())
    assert answer.status_code == 400 and "label" in answer.json()["error"], answer.text
    assert store.get(filled.hub, "s1").label is None


def test_a_very_long_label_is_refused_with_its_size(filled: HubFixture) -> None:
    outputs = (Tensor(name="out", datatype="FP32", shape=(-1, -1)),)
    task = TaskSpec(name="regression", tolerance=1.0)
    filled.release(labels=(), outputs=outputs, task=task, requires=("task:regression",))
    with pytest.raises(InvalidError, match=r"sample s1: its label has .* bytes as JSON; nothing was labelled"):
        store.label(filled.hub, {"s1": [0.123456789] * 40_000}, by="ada", actor="t")


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


def test_a_snapshot_holds_the_labels_of_any_task(filled: HubFixture) -> None:
    task = TaskSpec(name="regression", tolerance=1.0)
    filled.release(
        labels=(),
        outputs=TWO,
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
        task=task,
        requires=("task:regression",),
    )
    store.label(filled.hub, {"s2": [1, 2.5]}, by="ada", actor="test")
    made = snapshots.create(filled.hub, "digits", actor="test")
    assert (made.samples, made.labelled) == (2, 1)
    found = stack(snapshots.load(filled.hub, made.id), of(task, (), TWO))
    assert found.rows.tolist() == [1] and found.y.tolist() == [[1.0, 2.5]] and found.y.dtype == np.float64


def test_a_label_that_the_task_does_not_know_stays_out_of_snapshots(filled: HubFixture) -> None:
    """Hubs of 0.1 took class 99 of ten: training ended with it."""
    filled.release(inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),))
    store.label(filled.hub, {"s1": 3}, by="ada", actor="test")
    with filled.hub.session() as session:
        session.get_one(SampleRow, "s2").label = 99
    made = snapshots.create(filled.hub, "digits", actor="test")
    assert (made.samples, made.labelled) == (2, 1)
    assert snapshots.load(filled.hub, made.id).labels == (3, None)


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
    assert set(parquet.arrays_of(parts, ["s3", "nowhere"])) == {"s3"}
