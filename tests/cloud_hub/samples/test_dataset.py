"""Snapshots with labels of every task: the same after a file, and stacked as the task means them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from cloud_hub.errors import InvalidError
from cloud_hub.samples.dataset import Dataset, decode_dataset, encode_dataset, make_dataset, stack
from fleet import tasks
from fleet.protocol.manifest import Tensor
from fleet.protocol.task import TaskSpec

CLASSES = ("cat", "dog", "bird")
IDS = np.array(["s1", "s2", "s3"])
INPUTS = {"a": np.arange(6, dtype=np.float32).reshape(3, 2), "b": np.arange(3).reshape(3, 1)}
BOXES = [{"box": [0.0, 0.0, 2.0, 1.0], "class": 1}]
LABELS = {
    "classification": (2, None, 0),
    "multi-label": ([0, 2], None, []),
    "regression": (1.5, None, -2.0),
    "anomaly-score": (1, None, 0),
    "embedding": ("ada", None, "ü☃"),
    "detection": (BOXES, None, []),
    "custom": ({"any": [1, None]}, None, True),
}
SETTINGS: dict[str, dict[str, Any]] = {"regression": {"tolerance": 0.5}, "anomaly-score": {"threshold": 0.5}}


def task(name: str) -> tasks.Task[Any]:
    outputs = (Tensor(name="out", datatype="FP32", shape=(-1, 1 if name == "regression" else 3)),)
    return tasks.of(TaskSpec(name=name, **SETTINGS.get(name, {})), CLASSES, outputs)


@pytest.mark.parametrize("name", LABELS)
def test_a_snapshot_keeps_any_label_and_its_name(name: str) -> None:
    made = make_dataset(INPUTS, LABELS[name], IDS)
    again = decode_dataset(encode_dataset(made), subject="s")
    assert again.labels == LABELS[name] and again.labelled == 2 and again.id == made.id
    other = make_dataset(INPUTS, (LABELS[name][0], None, None), IDS)
    assert other.id != made.id, "another label is another snapshot"


@pytest.mark.parametrize("name", LABELS)
def test_labels_stack_beside_the_rows_that_have_one(name: str) -> None:
    found = stack(make_dataset(INPUTS, LABELS[name], IDS), task(name))
    assert set(found.inputs) == {"a", "b"} and len(found.inputs["a"]) == 3 == len(found.ids)
    assert found.rows.tolist() == [0, 2] and len(found.y) == 2


def test_classes_are_kept_as_hubs_of_0_1_read_them() -> None:
    made = make_dataset(INPUTS, (2, None, 0), IDS)
    assert made == Dataset(INPUTS, made.label, IDS) and made.label.tolist() == [2, -1, 0]
    with np.load(io.BytesIO(encode_dataset(made))) as arrays:
        assert set(arrays.files) == {"input:a", "input:b", "label", "ids"}
    with np.load(io.BytesIO(encode_dataset(make_dataset(INPUTS, (1.5, None, 2.5), IDS)))) as arrays:
        assert arrays["label"].tolist() == [-1, -1, -1], "an old reader takes no value for a class"


def test_a_label_that_is_none_of_the_task_is_named_with_its_sample() -> None:
    with pytest.raises(InvalidError, match=r"sample s3 of the snapshot: 9 is no label of a classification") as caught:
        stack(make_dataset(INPUTS, (2, None, 9), IDS), task("classification"))
    assert "a number from 0 to 2" in caught.value.hint
    with pytest.raises(InvalidError, match="'ada' is no label of a regression"):
        stack(make_dataset(INPUTS, ("ada", None, 1.0), IDS), task("regression"))


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"\xff", b"3", b"[[[", b"[1,2,3,4]"])
def test_labels_that_do_not_fit_the_rows_are_no_snapshot(text: bytes) -> None:
    from model_compiler.inputs.dataset import npz_of

    arrays = {"input:a": INPUTS["a"], "label": np.full(3, -1), "ids": IDS, "label_json": np.frombuffer(text, np.uint8)}
    with pytest.raises(InvalidError):
        decode_dataset(npz_of(arrays), subject="s")
