"""A fault of a recipe's data is told with its rows before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cloud_hub.errors import InvalidError
from cloud_hub.training.data_checks import check_data, rows_in_words
from cloud_hub.training.examples import Examples, Sets
from fleet.protocol.task import TaskSpec
from model_compiler.errors import DataError

NAMES = ("fine", "failing", "gone")


def part(count: int, seed: int) -> Examples:
    x = np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)
    return Examples({"sensors": x}, np.arange(count) % 3)


def sets() -> Sets:
    return Sets(part(60, 1), part(12, 2), part(30, 3), part(30, 4))


def changed(which: str, **fields: Any) -> Sets:
    made = sets()
    return replace(made, **{which: replace(getattr(made, which), **fields)})


def put(array: np.ndarray, rows: list[int], value: float) -> np.ndarray:
    copy = array.copy()
    copy[rows] = value
    return copy


FATAL: list[tuple[Callable[[], Sets], TaskSpec | None, str]] = [
    (
        lambda: changed("train", x={"sensors": put(part(60, 1).inputs["sensors"], [4, 7], np.nan)}),
        None,
        "train: input 'sensors' holds NaN or infinity in rows 4, 7",
    ),
    (
        lambda: changed("validation", x={"sensors": part(29, 3).inputs["sensors"]}),
        None,
        "validation: input 'sensors' has 29 rows, y has 30",
    ),
    (
        lambda: changed("exam", y=put(part(30, 4).y, [3], 7)),
        None,
        "exam: the labels in row 3 are none of the task classification: they are from 0 to 2",
    ),
    (lambda: sets(), TaskSpec(name="anomaly-score", threshold=1.0), "none of the task anomaly-score: they are 0 or 1"),
    (lambda: sets(), TaskSpec(name="regression", tolerance=1.0, high=1.5), "from -inf to 1.5"),
    (lambda: changed("validation", x=part(60, 1).take(slice(30)).x), None, "validation: rows 0, 1, 2, .* are in train"),
    (lambda: replace(sets(), calibration=part(0, 2)), None, "calibration has no rows"),
    (lambda: changed("exam", y=np.zeros((30, 2))), None, r"exam: y is \[n, 2\], that of train \[n\]"),
    (
        lambda: sets().each(lambda p: replace(p, y=put(p.y.astype(np.float32), [5], np.inf))),
        TaskSpec(name="regression", tolerance=1.0),
        "train: y holds NaN or infinity in row 5",
    ),
]


@pytest.mark.parametrize(("make", "spec", "words"), FATAL, ids=[words[:40] for *_, words in FATAL])
def test_what_cannot_be_trained_on_is_refused(make: Callable[[], Sets], spec: TaskSpec | None, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        check_data(make(), spec, NAMES)


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = changed(
        "train", x={"sensors": put(part(60, 1).inputs["sensors"], [4], np.nan)}, y=put(part(60, 1).y, [9], 5)
    )
    with pytest.raises(InvalidError, match=r"holds NaN or infinity in row 4; .*the labels in row 9"):
        check_data(wrong, None, NAMES)


def test_good_data_says_nothing_and_a_meant_nan_is_taken() -> None:
    assert check_data(sets(), None, NAMES) == ()
    meant = changed("train", x={"sensors": put(part(60, 1).inputs["sensors"], [4], np.nan)})
    assert check_data(meant, None, NAMES, non_finite=("sensors",)) == ()


def test_what_may_be_meant_is_only_said() -> None:
    x = part(60, 1).inputs["sensors"].copy()
    x[10] = x[20]  # classes 1 and 2
    x[3] = x[6]  # both of class 0
    said = check_data(changed("train", x={"sensors": x}), None, NAMES)
    assert said == ("train: 1 inputs have different labels (rows 10, 20)",)
    none = changed("train", y=np.zeros(60, np.int64))
    assert "train has no row of the classes failing (1), gone (2)" in check_data(none, None, NAMES)
    one = Sets(part(300, 1), part(12, 2), part(200, 3).join(part(300, 1).take(slice(1))), part(30, 4))
    assert check_data(one, None, NAMES) == ("validation: row 200 is in train, too (0.5%)",)


def test_rows_without_a_label_are_not_judged_by_it() -> None:
    y = put(part(60, 1).y, [0, 1], -1)
    assert check_data(changed("train", y=y), None, NAMES) == ()


def test_many_rows_are_counted() -> None:
    assert rows_in_words(range(20)) == "rows 0, 1, 2, 3, 4, 5, 6, 7, … (20 rows)"


def test_a_datatype_that_cannot_hold_the_data_is_refused_by_its_row() -> None:
    rows = Examples({"a": np.array([[1.0], [7e4]]), "n": np.array([[1], [2]])}, np.zeros(2))
    with pytest.raises(DataError, match=r"input 'a' has values that FP16 cannot hold .* row 1: 70000.0"):
        rows.cast({"a": np.dtype("f2"), "n": np.dtype("i8")})
    assert rows.cast({"a": np.dtype("f4"), "n": np.dtype("i4")}).inputs["n"].dtype == np.int32
