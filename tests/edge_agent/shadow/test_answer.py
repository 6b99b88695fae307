"""The process's record of one request, for every kind of answer, and its place in a window."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_agent.shadow.child import MOST_ROWS, ShadowRequest, answer
from edge_agent.telemetry.shadowed import ShadowTally
from fleet.protocol.manifest import Manifest, Tensor, decode_manifest
from fleet.protocol.task import TaskSpec
from fleet.protocol.tensors import to_array
from tests.support.manifests import small_release
from tests.support.shadows import ordered

NAN = float("nan")


def manifest(task: TaskSpec | None, outputs: dict[str, tuple[int, ...]], labels: tuple[str, ...] = ()) -> Manifest:
    tensors = tuple(Tensor(name=name, datatype="FP32", shape=shape) for name, shape in outputs.items())
    data, _ = small_release(outputs=tensors, labels=labels, task=msgspec.UNSET if task is None else task)
    return decode_manifest(data)


class Model:
    joins = False

    def __init__(self, *outputs: object) -> None:
        self._outputs = outputs

    def run(self, inputs):
        (found,) = self._outputs
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None: ...


def asked(outputs, rows: int = 3) -> ShadowRequest:
    x = np.zeros((rows, 4), np.float32)
    return ShadowRequest(
        rollout=ordered().rollout,
        inputs=(to_array("x", x),),
        outputs=tuple(to_array(n, np.float32(a)) for n, a in outputs.items()),
    )


CLASSES = manifest(None, {"logits": (-1, 2)}, ("no", "yes"))
REGRESSION = manifest(TaskSpec(name="regression", tolerance=0.5), {"y": (-1, 1)})
DETECTION = manifest(TaskSpec(name="detection", box="xyxy", threshold=0.5), {"found": (-1, 2, 6)}, ("a", "b"))


@pytest.mark.parametrize(
    ("of", "old", "new", "agree", "broken"),
    [
        (CLASSES, {"logits": [[1, 0], [0, 1], [1, 0]]}, {"logits": [[9, 0], [3, 1], [2, 0]]}, (1, 0, 1), (0, 0, 0)),
        (CLASSES, {"logits": [[1, 0], [0, 1], [1, 0]]}, {"logits": [[9, 0], [NAN, 1], [0, 2]]}, (1, 0, 0), (0, 1, 0)),
        (REGRESSION, {"y": [[1], [2], [3]]}, {"y": [[1.4], [2.6], [np.inf]]}, (1, 0, 0), (0, 0, 1)),
        (REGRESSION, {"y": [[1], [2], [3]]}, {"y": [[NAN]] * 3}, (0, 0, 0), (1, 1, 1)),
    ],
)
def test_rows_are_compared_by_the_task(of: Manifest, old, new, agree, broken) -> None:
    said = answer(Model({name: np.float32(value) for name, value in new.items()}), of, asked(old))
    assert (said.agree, said.broken) == (tuple(map(bool, agree)), tuple(map(bool, broken)))
    assert not said.failed and said.cpu_s >= said.run_s >= 0


def test_boxes_are_compared_as_boxes() -> None:
    def boxes(*box: float):  # x, y, x, y, score, class; the second is no box
        return {"found": np.float32([[(*box, 0.9, 0), (0, 0, 0, 0, 0.1, 0)]] * 3)}

    same = answer(Model(boxes(0, 0, 10, 10.5)), DETECTION, asked(boxes(0, 0, 10, 10)))
    moved = answer(Model(boxes(20, 20, 30, 30)), DETECTION, asked(boxes(0, 0, 10, 10)))
    assert (same.agree, moved.agree) == ((True,) * 3, (False,) * 3)


@pytest.mark.parametrize("what", [RuntimeError("out of range"), {"wrong": np.zeros((3, 1))}, {"y": np.zeros((2, 1))}])
def test_a_run_that_fails_is_an_answer_that_differs(what) -> None:
    said = answer(Model(what), REGRESSION, asked({"y": [[1], [2], [3]]}))
    assert said.failed and said.agree == (False,) * 3


def test_of_a_large_request_the_first_rows_are_compared() -> None:
    y = np.zeros((MOST_ROWS + 5, 1), np.float32)
    y[-1] = np.nan
    said = answer(Model({"y": y}), REGRESSION, asked({"y": y}, len(y)))
    assert said.agree == (True,) * MOST_ROWS and len(said.keys) == MOST_ROWS and not any(said.broken)


def test_a_window_counts_each_input_once_and_says_what_was_wrong() -> None:
    tally = ShadowTally(ordered().rollout)
    tally.rows([b"a" * 8, b"b" * 8, b"c" * 8], (True, False, False), (False, True, False), failed=False)
    tally.rows([b"a" * 8, b"d" * 8], (True, False), (False, False), failed=True)
    tally.took(0.001, 0.002)
    tally.count("dropped", 4)
    tally.count("crashed")
    found = tally.data()
    assert (found.agree, found.differ, found.repeats, found.keys) == (
        1,
        3,
        1,
        b"".join(c * 8 for c in (b"a", b"b", b"c", b"d")),
    )
    assert (found.non_finite, found.failed, found.crashed, found.dropped) == (1, 1, 1, 4)
    assert (found.old_us, found.new_us, found.old, found.new, found.attempt) == (1000, 2000, 1, 2, 1)
