"""The promises of every task, over answers, outputs and labels that nobody chose."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet import tasks
from fleet.protocol.confidence import confidence, probabilities
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Tensor
from fleet.protocol.task import TaskSpec
from fleet.tasks import Calibration, Task

CLASSES = ("cat", "dog", "7")
WIDE = (Tensor(name="out", datatype="FP32", shape=(-1, 3)),)
LONE = (Tensor(name="out", datatype="FP32", shape=(-1, 1)),)
ROWS = (Tensor(name="out", datatype="FP32", shape=(-1, -1, 6)),)


def task(name: str, outputs: tuple[Tensor, ...] = WIDE, classes: tuple[str, ...] = CLASSES, **settings: Any) -> Task:
    return tasks.of(TaskSpec(name=name, **settings), classes, outputs)


EVERY = (
    task("classification"),
    task("multi-label"),
    task("multi-label", logits=True, threshold=0.3),
    task("regression", tolerance=0.5),
    task("anomaly-score", LONE, threshold=0.5),
    task("embedding"),
    task("custom", agreement="equal"),
    task("custom", agreement="tolerance", tolerance=0.1),
    task("custom", agreement="cosine"),
    task("detection", ROWS),
)
IDS = [f"{item.name}{item.spec.agreement}{'-logits' * item.spec.logits}" for item in EVERY]
numbers = st.floats(-1e6, 1e6, width=32)


def arrays_for(item: Task) -> st.SearchStrategy[np.ndarray]:
    rows = st.integers(0, 4)
    if item.name == "detection":
        shape = st.tuples(rows, st.integers(0, 6), st.just(6))
        return hnp.arrays(np.float32, shape, elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1, 2]))
    return hnp.arrays(np.float32, st.tuples(rows, st.just(item.outputs[0].shape[-1])), elements=numbers)


@pytest.mark.parametrize("item", EVERY, ids=IDS)
@given(data=st.data())
def test_agreement_is_a_symmetric_share_and_full_with_itself(item: Task, data: st.DataObject) -> None:
    outputs = {"out": data.draw(arrays_for(item))}
    answers = item.answers(outputs)
    assert len(answers) == len(outputs["out"])
    for one in answers:
        assert item.agreement(one, one) == 1.0 and item.agrees(one, one)
        for other in answers:
            share = item.agreement(one, other)
            assert 0.0 <= share <= 1.0 and share == pytest.approx(item.agreement(other, one), abs=1e-12)


@pytest.mark.parametrize("item", EVERY, ids=IDS)
@given(data=st.data())
def test_reading_gives_the_same_answers_and_a_confidence_between_0_and_1(item: Task, data: st.DataObject) -> None:
    outputs = {"out": data.draw(arrays_for(item))}
    reading = item.read(outputs, Calibration(temperature=1.0, logits=True))
    assert len(reading.answers) == len(outputs["out"]) and len(reading.confidence) in (0, len(outputs["out"]))
    assert all(0.0 <= value <= 1.0 for value in reading.confidence)
    pairs = zip(reading.answers, item.answers(outputs), strict=True)
    assert all(item.agreement(one, other) == 1.0 for one, other in pairs)
    for answer in reading.answers:
        assert all(isinstance(number, int) and number >= 0 for number in item.classes(answer))
        assert all(isinstance(number, float) for number in item.values(answer))


@pytest.mark.parametrize("item", EVERY, ids=IDS)
@pytest.mark.parametrize("outputs", [{}, {"out": np.array([b"text"], object)}], ids=["missing", "text"])
def test_outputs_of_another_kind_are_said_in_words(item: Task, outputs: dict[str, Any]) -> None:
    if item.spec.agreement == "equal" and outputs:
        assert item.agreement(*item.answers(outputs) * 2) == 1.0, "text can be equal"
        return
    with pytest.raises(MalformedError, match="numbers"):
        item.answers(outputs)


@pytest.mark.parametrize("item", EVERY, ids=IDS)
@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_a_label_is_kept_as_json_or_refused_with_its_value_and_what_it_may_be(item: Task, value: Any) -> None:
    try:
        kept = item.label(value)
    except MalformedError as error:
        assert repr(value)[:20] in str(error) or isinstance(value, list), "one member may be what is wrong"
        assert item.name in str(error) and error.hint.startswith("a label is ")
        return
    assert item.label(json.loads(json.dumps(kept, allow_nan=False))) == kept, "what is kept is a label again"


@given(hnp.arrays(np.float32, (4, 3), elements=numbers), st.floats(0.1, 20), st.booleans())
def test_a_classification_says_what_agents_of_0_1_say(table: np.ndarray, temperature: float, logits: bool) -> None:
    known = probabilities(table, temperature=temperature, apply_softmax=logits)
    reading = task("classification").read({"out": table}, Calibration(temperature, logits))
    assert reading.confidence == tuple(confidence(known))
    assert all(known[row, answer] == known[row].max() for row, answer in enumerate(reading.answers))


THREE = tuple(Tensor(name=name, datatype="FP32", shape=(-1, -1)) for name in ("boxes", "scores", "labels", "num"))
ANY = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    elements={"allow_nan": True, "allow_infinity": True},
)


@pytest.mark.parametrize("item", [*EVERY, task("detection", THREE), task("detection", layout="grid")])
@given(data=st.data())
def test_outputs_of_any_shape_are_read_or_refused_in_words(item: Task, data: st.DataObject) -> None:
    """A model or a cloud may answer anything; nothing but MalformedError may come of it."""
    outputs = {tensor.name: data.draw(ANY) for tensor in item.outputs}
    with np.errstate(all="ignore"), contextlib.suppress(MalformedError):
        reading = item.read(outputs, Calibration())
        assert all(0.0 <= value <= 1.0 for value in reading.confidence)
        for answer in reading.answers:
            assert 0.0 <= item.agreement(answer, reading.answers[0]) <= 1.0
            item.classes(answer), item.values(answer)


WRONG = [
    ("classification", {}, 3, "3", "a number from 0 to 2"),
    ("classification", {}, -1, "-1", "a number from 0 to 2"),
    ("classification", {}, True, "True", "a number from 0 to 2"),
    ("classification", {}, 1.0, "1.0", "a number from 0 to 2"),
    ("classification", {}, "cow", "'cow'", "or a class name: cat, dog, 7"),
    ("classification", {}, [0, 1, 0], "[0, 1, 0]", "a number from 0 to 2"),
    ("multi-label", {}, 1, "1", "a list of class numbers or names"),
    ("multi-label", {}, [0, 9], "9", "a number from 0 to 2"),
    ("multi-label", {}, [1, 0, 1], "[1, 0, 1]", "class numbers or names, each once"),
    ("regression", {"tolerance": 1, "low": 0, "high": 5}, 6, "6", "a finite number and at least 0 and at most 5"),
    ("regression", {"tolerance": 1}, float("nan"), "nan", "a finite number"),
    ("regression", {"tolerance": 1}, "3", "'3'", "a finite number"),
    ("anomaly-score", {"threshold": 1}, 2, "2", "1 (an anomaly) or 0 (none)"),
    ("embedding", {}, "", "''", "1 to 255 printable characters"),
    ("detection", {}, [{"box": [5, 0, 1, 1], "class": 0}], "[5, 0, 1, 1]", "x1 <= x2"),
    ("detection", {}, [{"box": [0, 0, 1, 1], "class": 5}], "5", "a number from 0 to 2"),
    ("custom", {}, float("inf"), "inf", "without NaN"),
]


@pytest.mark.parametrize(("name", "settings", "value", "shown", "wanted"), WRONG)
def test_a_wrong_label_is_named_with_the_range(
    name: str, settings: dict[str, Any], value: Any, shown: str, wanted: str
) -> None:
    with pytest.raises(MalformedError) as caught:
        task(name, LONE, **settings).label(value)
    assert shown in str(caught.value) and wanted in caught.value.hint


RIGHT = [
    ("classification", {}, "dog", 1),
    ("classification", {}, "7", 2),
    ("classification", {}, 0, 0),
    ("multi-label", {}, ["7", 0, "cat"], [0, 2]),
    ("multi-label", {}, [], []),
    ("multi-label", {}, "dog", [1]),
    ("regression", {"tolerance": 1}, 3, 3.0),
    ("anomaly-score", {"threshold": 1}, True, 1),
    ("embedding", {}, "my cup", "my cup"),
    ("detection", {}, [{"box": [0, 0, 2, 1], "class": "dog"}], [{"box": [0.0, 0.0, 2.0, 1.0], "class": 1}]),
    ("custom", {}, {"any": [1, None]}, {"any": [1, None]}),
]


@pytest.mark.parametrize(("name", "settings", "value", "kept"), RIGHT)
def test_a_label_is_given_by_number_or_name(name: str, settings: dict[str, Any], value: Any, kept: Any) -> None:
    assert task(name, LONE, **settings).label(value) == kept


def test_a_regression_with_several_values_is_labelled_by_as_many() -> None:
    item = task("regression", tolerance=0.5)
    assert item.label([1, 2, 3]) == [1.0, 2.0, 3.0]
    for wrong in (1.0, [1, 2], [1, 2, "3"]):
        with pytest.raises(MalformedError):
            item.label(wrong)
    assert item.agreement((1.0, 2.0, 3.0), (1.4, 2.6, 3.0)) == pytest.approx(2 / 3)


STACKED = [
    ("classification", {}, [2, "cat"], np.array([2, 0])),
    ("multi-label", {}, [["7", "cat"], []], np.array([[1, 0, 1], [0, 0, 0]], np.float32)),
    ("regression", {"tolerance": 1}, [[1, 2, 3], [4, 5, 6]], np.array([[1.0, 2, 3], [4, 5, 6]])),
    ("anomaly-score", {"threshold": 1}, [True, 0], np.array([1, 0])),
    ("embedding", {}, ["ada", "my cup"], np.array(["ada", "my cup"])),
]


@pytest.mark.parametrize(("name", "settings", "values", "wanted"), STACKED, ids=[row[0] for row in STACKED])
def test_labels_stack_as_training_takes_them(
    name: str, settings: dict[str, Any], values: list[Any], wanted: np.ndarray
) -> None:
    item = task(name, **settings)
    found = item.stack([item.label(value) for value in values])
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape) and (found == wanted).all()
    assert item.stack([]).shape == (0, *wanted.shape[1:]) and item.stack([]).dtype.kind == wanted.dtype.kind


def test_boxes_and_what_only_its_owner_understands_stack_as_lists() -> None:
    item = task("detection", ROWS)
    labels = [item.label([{"box": [0, 0, 2, 1], "class": "dog"}, {"box": [1, 1, 2, 2], "class": 0}]), item.label([])]
    (boxes, classes), (none, nothing) = item.stack(labels)
    assert boxes.tolist() == [[0, 0, 2, 1], [1, 1, 2, 2]] and classes.tolist() == [1, 0]
    assert none.shape == (0, 4) and nothing.shape == (0,) and nothing.dtype == np.int64 and item.stack([]) == []
    assert task("custom").stack([{"any": 1}, "x"]) == [{"any": 1}, "x"] and task("custom").stack([]) == []


def test_rows_of_different_widths_are_refused_in_words() -> None:
    open_ended = task("regression", ROWS, tolerance=1)
    with pytest.raises(MalformedError, match="have 1 and 2 numbers"):
        open_ended.stack([open_ended.label([1, 2]), open_ended.label(3)])


def test_a_row_without_a_number_in_it_is_never_certain() -> None:
    broken = np.full((1, 3), np.nan, np.float32)
    for name in ("multi-label", "classification"):
        assert task(name).read({"out": broken}, Calibration()).confidence[0] <= 0.5
    assert task("embedding").agreement(broken[0], np.ones(3)) == 0.0


def test_an_output_may_say_the_confidence() -> None:
    outputs = (Tensor(name="out", datatype="FP32", shape=(-1,)), Tensor(name="sure", datatype="FP32", shape=(-1, 1)))
    item = task("regression", outputs, tolerance=1, confidence="sure")
    item.check()
    arrays = {"out": np.zeros(3, np.float32), "sure": np.array([[0.2], [7], [np.nan]], np.float32)}
    assert item.read(arrays, Calibration()).confidence == pytest.approx((0.2, 1.0, 0.0))


def test_a_model_without_a_batch_axis_gives_one_answer() -> None:
    whole = (Tensor(name="out", datatype="FP32", shape=(3,)),)
    assert task("regression", whole, tolerance=1).answers({"out": np.arange(3.0)}) == ((0.0, 1.0, 2.0),)
    assert task("classification", whole).answers({"out": np.arange(3.0)}) == (2,)


def test_what_nobody_scores_is_not_compared() -> None:
    item = tasks.of(None, (), WIDE)
    assert not item.compares and item.read({"out": np.zeros((2, 3))}, Calibration()) == ((), ())


def test_an_unknown_task_is_an_error_that_lists_those_that_exist() -> None:
    with pytest.raises(MalformedError, match="no task 'clasification'") as caught:
        task("clasification")
    assert all(name in caught.value.hint for name in tasks.NAMES)
    assert set(tasks.NAMES) == {item.name for item in EVERY}


UNFIT = [
    ("classification", WIDE, (), {}, "needs class names"),
    ("multi-label", WIDE, CLASSES, {"threshold": 1.5}, "threshold 1.5"),
    ("regression", WIDE, (), {}, "needs a tolerance"),
    ("regression", WIDE, (), {"tolerance": 1, "low": 2, "high": 1}, "low 2 above high 1"),
    ("regression", WIDE, (), {"tolerance": float("inf")}, "is no number"),
    ("regression", WIDE, (), {"tolerance": 1, "iou": 0.5}, "no setting 'iou'"),
    ("anomaly-score", LONE, (), {}, "needs a threshold"),
    ("anomaly-score", WIDE, (), {"threshold": 1}, "has an output"),
    ("embedding", WIDE, (), {"agree_at": 2}, "agree_at 2"),
    ("embedding", WIDE, (), {"confidence": "sure"}, "confidence from output 'sure'"),
    ("custom", WIDE, (), {"agreement": "guess"}, "agreement 'guess'"),
    ("custom", WIDE, (), {"agreement": "tolerance"}, "tolerance together"),
    ("detection", WIDE, CLASSES, {"layout": "outputs"}, "none of out is called boxes"),
    ("detection", WIDE, CLASSES, {"layout": "rows"}, "rows of 3"),
    ("detection", WIDE, CLASSES, {"box": "zz"}, "box 'zz'"),
]


@pytest.mark.parametrize(("name", "outputs", "classes", "settings", "why"), UNFIT)
def test_a_task_that_does_not_fit_the_model_is_refused_in_words(
    name: str, outputs: tuple[Tensor, ...], classes: tuple[str, ...], settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(MalformedError, match=why) as caught:
        task(name, outputs, classes, **settings).check()
    assert caught.value.hint


@pytest.mark.parametrize("item", EVERY, ids=IDS)
def test_a_task_that_fits_is_taken(item: Task) -> None:
    item.check()


RIGHTNESS = [
    ("classification", WIDE, {}, [[0.1, 0.9, 0.0]], "dog", 1.0),
    ("classification", WIDE, {}, [[0.1, 0.9, 0.0]], 2, 0.0),
    ("multi-label", WIDE, {}, [[0.9, 0.9, 0.0]], ["cat"], 0.5),
    ("multi-label", WIDE, {}, [[0.0, 0.0, 0.0]], [], 1.0),
    ("regression", WIDE, {"tolerance": 0.5}, [[1.0, 2.0, 3.0]], [1.4, 2.0, 9.0], 2 / 3),
    ("regression", LONE, {"tolerance": 0.5}, [[1.0]], 1.5, 1.0),
    ("anomaly-score", LONE, {"threshold": 0.5}, [[0.7]], True, 1.0),
    ("anomaly-score", LONE, {"threshold": 0.5}, [[0.7]], 0, 0.0),
    ("embedding", WIDE, {}, [[1.0, 0.0, 0.0]], "ada", None),
    ("detection", ROWS, {}, [[[0, 0, 1, 1, 0.9, 1]]], [{"box": [0, 0, 1, 1], "class": "dog"}], 1.0),
    ("detection", ROWS, {}, [[[0, 0, 1, 1, 0.9, 1]]], [], 0.0),
    ("custom", WIDE, {"agreement": "tolerance", "tolerance": 0.5}, [[1.0, 2.0, 3.0]], [1, 2, 9], 2 / 3),
    ("custom", WIDE, {"agreement": "equal"}, [[1.0, 2.0, 3.0]], [[1, 2, 3]], 1.0),
    ("custom", WIDE, {"agreement": "equal"}, [[1.0, 2.0, 3.0]], {"any": 1}, None),
]


@pytest.mark.parametrize(("name", "outputs", "settings", "out", "label", "share"), RIGHTNESS)
def test_an_answer_is_as_right_as_the_task_says_of_its_label(
    name: str, outputs: tuple[Tensor, ...], settings: dict[str, Any], out: Any, label: Any, share: float | None
) -> None:
    item = task(name, outputs, **settings)
    (answer,) = item.answers({"out": np.asarray(out, np.float32)})
    found = item.right(answer, item.label(label))
    assert found is None if share is None else found == pytest.approx(share)
