"""Detections: the same boxes out of every layout, and how two sets of boxes agree."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet import tasks
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Tensor
from fleet.protocol.task import TaskSpec
from fleet.tasks import Calibration, Task
from fleet.tasks.boxes import corners, matched, overlaps

CLASSES = ("cat", "dog")
BOXES = np.array([[0, 0, 4, 2], [10, 10, 14, 18], [0, 0, 1, 1]], np.float32)
SCORES = np.array([0.9, 0.6, 0.2], np.float32)
KINDS = np.array([1, 0, 1], np.float32)


def model(*outputs: tuple[str, tuple[int, ...]], **settings: Any) -> Task:
    tensors = tuple(Tensor(name=name, datatype="FP32", shape=shape) for name, shape in outputs)
    found = tasks.of(TaskSpec(name="detection", **settings), CLASSES, tensors)
    found.check()
    return found


ROWS = model(("out", (-1, -1, 6)))


def rows(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(1, -1, 6)


def expect(item: Task, outputs: dict[str, np.ndarray]) -> None:
    (found,) = item.answers(outputs)
    assert found.boxes.tolist() == BOXES[:2].tolist() and found.classes.tolist() == [1, 0]
    assert found.scores == pytest.approx([0.9, 0.6]) and item.classes(found) == (1, 0)
    assert item.read(outputs, Calibration()).confidence == pytest.approx((0.6,))


@pytest.mark.parametrize(
    ("form", "places"), [("xyxy", BOXES), ("yxyx", BOXES[:, [1, 0, 3, 2]]), ("xywh", None), ("cxcywh", None)]
)
def test_every_layout_gives_the_same_boxes(form: str, places: np.ndarray | None) -> None:
    size = BOXES[:, 2:] - BOXES[:, :2]
    start = BOXES[:, :2] + (size / 2 if form == "cxcywh" else 0)
    boxes = (np.concatenate([start, size], axis=1) if places is None else places)[None]
    table = np.concatenate([boxes[0], SCORES[:, None], KINDS[:, None]], axis=1)[None]
    expect(model(("out", (-1, 3, 6)), box=form), {"out": table})
    one_hot = np.zeros((3, 2), np.float32)
    one_hot[np.arange(3), KINDS.astype(int)] = SCORES
    grid = np.concatenate([boxes[0], one_hot], axis=1)[None]
    wide = model(("out", (-1, 6, 5)), layout="grid", box=form)
    more = np.concatenate([grid, np.tile(grid[:, 2:], (1, 2, 1))], axis=1)
    expect(wide, {"out": more.transpose(0, 2, 1)})
    expect(model(("out", (-1, 5, 6)), layout="grid", box=form), {"out": more})


def test_outputs_are_told_apart_by_their_names_and_cut_at_their_count() -> None:
    """As the detection postprocess of LiteRT and as torchvision name them."""
    outputs = {"labels": KINDS[None], "boxes": BOXES[None], "scores": SCORES[None]}
    expect(model(("boxes", (-1, -1, 4)), ("labels", (-1, -1)), ("scores", (-1, -1))), outputs)
    names = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
    item = model(*zip(names, ((1, 3, 4), (1, 3), (1, 3), (1,)), strict=True))
    sure = np.array([[0.9, 0.6, 0.8]], np.float32)
    expect(item, dict(zip(names, (BOXES[None], KINDS[None], sure, np.array([2.0])), strict=True)))


def test_an_output_whose_name_says_nothing_is_missed_by_its_role() -> None:
    with pytest.raises(MalformedError, match="none of rects, scores, classes is called boxes") as caught:
        model(("rects", (-1, 3, 4)), ("scores", (-1, 3)), ("classes", (-1, 3)))
    assert "boxes: box" in str(caught.value.hint) and "scores" not in str(caught.value.hint)


def test_boxes_that_are_one_are_suppressed_but_not_across_classes() -> None:
    grid = np.array([[[0, 0, 9, 9, 0.9, 0], [0, 0, 9, 8, 0.8, 0], [0, 0, 9, 9, 0, 0.7]]], np.float32)
    (found,) = model(("out", (-1, -1, 6)), layout="grid").answers({"out": grid})
    assert found.scores == pytest.approx([0.9, 0.7]) and found.classes.tolist() == [0, 1]


def test_agreement_counts_boxes_with_a_partner_of_their_class() -> None:
    one, shifted, other, none = (
        ROWS.answers({"out": table})[0]
        for table in (
            rows((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.9, 1)),
            rows((20, 20, 30, 31, 0.6, 1), (0, 0, 10, 9, 0.6, 0)),
            rows((0, 0, 10, 10, 0.9, 1)),
            rows((0, 0, 10, 10, 0.1, 1)),
        )
    )
    assert ROWS.agreement(one, shifted) == 1.0 and ROWS.agreement(one, other) == 0.0
    assert ROWS.agreement(none, none) == 1.0 and ROWS.agreement(one, none) == 0.0
    assert ROWS.agreement(one, ROWS.answers({"out": rows((0, 0, 10, 10, 0.9, 0))})[0]) == pytest.approx(2 / 3)
    assert ROWS.agrees(one, shifted) and not ROWS.agrees(one, none)


def test_where_nothing_is_found_the_confidence_says_how_surely() -> None:
    assert ROWS.read({"out": rows((0, 0, 1, 1, 0.4, 0))}, Calibration()).confidence == pytest.approx((0.6,))
    assert ROWS.read({"out": np.zeros((1, 0, 6), np.float32)}, Calibration()).confidence == (1.0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", range(6))
def test_what_is_no_number_is_no_box(bad: float, place: int) -> None:
    table = rows((0, 0, 1, 1, 0.9, 0), (5, 5, 6, 6, 0.9, 1))
    table[0, 0, place] = bad
    (found,) = ROWS.answers({"out": table})
    assert found.boxes.tolist() == [[5, 5, 6, 6]]


def test_outputs_of_different_sizes_are_refused() -> None:
    item = model(("boxes", (-1, -1, 4)), ("labels", (-1, -1)), ("scores", (-1, -1)))
    for labels in (KINDS[None, :2], np.concatenate([KINDS[None]] * 2)):
        with pytest.raises(MalformedError):
            item.answers({"boxes": BOXES[None], "labels": labels, "scores": SCORES[None]})


@given(hnp.arrays(np.bool_, st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_as_many_pairs_are_made_as_can_be(allowed: np.ndarray) -> None:
    tall = allowed if allowed.shape[0] <= allowed.shape[1] else allowed.T
    places = permutations(range(tall.shape[1]), tall.shape[0])
    best = max(sum(bool(tall[row, column]) for row, column in enumerate(place)) for place in places)
    assert matched(allowed) == matched(allowed.T) == best


@given(hnp.arrays(np.float64, (4, 4), elements=st.floats(-1e3, 1e3)))
def test_overlap_is_a_symmetric_share_and_full_with_itself(boxes: np.ndarray) -> None:
    shares = overlaps(corners(boxes, "xywh"), corners(boxes, "xywh"))
    assert (shares >= 0).all() and (shares <= 1).all() and np.allclose(shares, shares.T)
    assert (np.diag(shares) == 1).all()
