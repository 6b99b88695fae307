"""Answers and labels in the words of each task, as the page of samples shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cloud_hub.dashboard.views.samples import answer_in_words, label_in_words, read, wanted_of
from cloud_hub.errors import InvalidError
from cloud_hub.samples import store
from cloud_hub.samples.parquet import Arrays
from fleet import tasks
from fleet.protocol.manifest import Tensor
from fleet.protocol.messages import Sample
from fleet.protocol.task import NO_CLASS, TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.hub import HubFixture

CLASSES = ("cat", "dog", "<b>")
BOX = [0, 0, 1, 1]
SHOWN: list[tuple[str, dict[str, Any], Any, str, Any, str]] = [
    ("classification", {}, [[0, 9, 1]], "dog", 2, "<b>"),
    ("multi-label", {}, [[0.9, 0.8, 0]], "cat, dog", [], "nothing"),
    ("regression", {"tolerance": 1}, [[1.5, 2, 3]], "1.5, 2, 3", [1.0, 2.5, 3.0], "[1.0,2.5,3.0]"),
    ("anomaly-score", {"threshold": 1}, [[0.25]], "0.25", 1, "1"),
    ("embedding", {}, [list(range(9))], "0, 1, 2, 3, 4, 5, … (9)", "ada", "ada"),
    (
        "detection",
        {},
        [[[*BOX, 0.9, 1], [*BOX, 0.8, 1], [*BOX, 0.7, 0]]],
        "dog ×2, cat",
        [{"box": BOX, "class": 0}],
        "cat",
    ),
    ("custom", {"agreement": "equal"}, [[1, 2, 3]], "1, 2, 3", {"any": "x" * 200}, '{"any":"' + "x" * 91 + "…"),
    ("custom", {}, [[1, 2, 3]], "–", True, "true"),
]


@pytest.mark.parametrize(("name", "settings", "out", "answer", "label", "told"), SHOWN, ids=[row[0] for row in SHOWN])
def test_answers_and_labels_are_told_as_the_task_means_them(
    name: str, settings: dict[str, Any], out: Any, answer: str, label: Any, told: str
) -> None:
    table = np.asarray(out, np.float32)
    task = tasks.of(
        TaskSpec(name=name, **settings), CLASSES, (Tensor(name="out", datatype="FP32", shape=(-1, *table.shape[1:])),)
    )
    assert answer_in_words(task, Arrays(inputs=(), outputs=(to_array("out", table),))) == answer
    assert label_in_words(task, label) == told and label_in_words(task, None) == ""
    assert wanted_of(task).startswith("a label is ")


def test_what_nobody_can_read_is_said_and_ends_no_page() -> None:
    task = tasks.of(TaskSpec(name="classification"), CLASSES, (Tensor(name="out", datatype="FP32", shape=(-1, 3)),))
    assert answer_in_words(task, Arrays(inputs=(), outputs=())) == "unreadable"
    assert answer_in_words(task, None) == answer_in_words(None, None) == "–" and wanted_of(None) == ""
    assert label_in_words(None, 7) == "7" and label_in_words(task, 99) == "99"


def test_a_form_writes_nothing_that_no_database_keeps(hub: HubFixture) -> None:
    """A custom task takes any JSON, so nobody else refuses these."""
    hub.model("any")
    hub.release("any", labels=(), task=TaskSpec(name="custom"), requires=("task:custom",))
    x = to_array("x", np.zeros((1, 64), np.float32))
    sample = Sample(
        id="s1",
        model="any",
        release=1,
        variant="v",
        at=hub.clock(),
        reason="random",
        inputs=(x,),
        outputs=(),
        confidence=0.0,
        prediction=NO_CLASS,
    )
    store.commit(hub.hub, "d", [sample])
    for wrong in ("[1e999]", "[18446744073709551617]", '"\\ud800"', "[" * 50 + "]" * 50, '{"a": "\\u0000"}', "[1,", ""):
        with pytest.raises(InvalidError):
            read("s1", wrong)
    wanted = read("s1", '{"a": [1.5, null]}')
    store.label(hub.hub, {wanted.id: wanted.label}, by="t", actor="t")
    assert store.get(hub.hub, "s1").label == {"a": [1.5, None]}
