"""Detection: boxes with a score and a class each, in the layouts that models commonly answer.

outputs  an output each for boxes (n, k, 4), scores (n, k), classes (n, k) and, where there is one, a count (n,); told
         apart by their names (`boxes`, `detection_scores`, `labels`, `num_detections`)
rows     one output (n, k, 6): four numbers of a box, score, class
grid     one output (n, 4 + classes, k) or (n, k, 4 + classes): a box and a score for each class; overlapping boxes are
         suppressed here
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.protocol.errors import MalformedError
from fleet.protocol.tensors import AnyArray
from fleet.tasks.base import Calibration, Outputs, Reading, Task
from fleet.tasks.boxes import FORMATS, Floats, corners, matched, overlaps, suppress
from fleet.tasks.classes import HALF, sigmoid

LAYOUTS = ("outputs", "rows", "grid")
MOST = 300  # boxes of an answer: the best ones; bounds the time that comparing takes
WORDS = {"boxes": ("box",), "scores": ("score", "conf"), "classes": ("class", "label"), "count": ("num", "count")}


class Detections(NamedTuple):
    """The objects found in one input: corners (k, 4), scores (k,), class numbers (k,); best first."""

    boxes: Floats
    scores: Floats
    classes: npt.NDArray[np.int64]


class Detection(Task[Detections]):
    """Any number of boxes per answer: those with a score at or above the threshold (0.5)."""

    name = "detection"
    summarises = "classes"
    used = frozenset({"threshold", "iou", "layout", "box", "logits"})
    agree_at = 0.5

    def answers(self, outputs: Outputs) -> tuple[Detections, ...]:
        """The boxes of every row."""
        return tuple(self._kept(found) for found in self._candidates(outputs))

    def read(self, outputs: Outputs, calibration: Calibration) -> Reading:
        """The confidence is the lowest score of a box that counts; where none does, how surely nothing is there."""
        candidates = self._candidates(outputs)
        answers = tuple(map(self._kept, candidates))
        if self.spec.confidence:
            return Reading(answers, self._said_confidence(outputs))
        sure = [
            float(kept.scores.min()) if len(kept.scores) else 1.0 - float(found.scores.max(initial=0.0))
            for kept, found in zip(answers, candidates, strict=True)
        ]
        return Reading(answers, tuple(min(max(value, 0.0), 1.0) for value in sure))

    def agreement(self, one: Detections, other: Detections) -> float:
        """The share of boxes with a partner of the same class at the IoU; 1 where neither has any.

        It is the F1 score: twice the pairs over the boxes of both, with as many pairs as can be made.
        """
        total = len(one.scores) + len(other.scores)
        if not len(one.scores) or not len(other.scores):
            return float(total == 0)
        near = overlaps(one.boxes, other.boxes) >= self._iou
        return 2 * matched(near & (one.classes[:, None] == other.classes[None, :])) / total

    def label(self, value: object) -> list[dict[str, Any]]:
        """A list of {"box": [x1, y1, x2, y2], "class": number or name}; an empty one says that nothing is there."""
        if not isinstance(value, list | tuple) or len(value) > MOST:
            raise self.wrong(value, f'a list of at most {MOST} {{"box": [x1, y1, x2, y2], "class": …}}')
        return [self._labelled(item) for item in value]

    def right(self, answer: Detections, label: Any) -> float:
        """The share of boxes with a partner in the label, as in `agreement`."""
        ((boxes, classes),) = self.stack([label])
        return self.agreement(answer, Detections(boxes, np.ones(len(classes)), classes))

    def stack(self, labels: Sequence[Any]) -> list[tuple[Floats, npt.NDArray[np.int64]]]:
        """Per row corners (k, 4) and class numbers (k,)."""
        return [
            (
                np.asarray([item["box"] for item in label], np.float64).reshape(-1, 4),
                np.asarray([item["class"] for item in label], np.int64),
            )
            for label in labels
        ]

    def classes(self, answer: Detections) -> tuple[int, ...]:
        """The class of every box, so that windows count what was found."""
        return tuple(answer.classes.tolist())

    def check(self) -> None:
        """Class names, a known layout that the outputs have, and a known kind of box."""
        super().check()
        if not self.class_names:
            raise self._unfit("needs class names", "give them in the order of their numbers: --labels a,b,c")
        if self.spec.box not in ("", *FORMATS):
            raise self._unfit(f"has box {self.spec.box!r}", f"one of {', '.join(FORMATS)}")
        if not 0 < self._threshold < 1:
            raise self._unfit(f"has threshold {self._threshold:g}", "the threshold lies between 0 and 1")
        layout = self._layout()
        if layout not in LAYOUTS:
            raise self._unfit(f"has layout {layout!r}", f"one of {', '.join(LAYOUTS)}")
        missing = sorted({"boxes", "scores", "classes"} - set(self._roles())) if layout == "outputs" else []
        if missing:
            known = ", ".join(tensor.name for tensor in self.outputs)
            words = "; ".join(f"{role}: {' or '.join(WORDS[role])}" for role in missing)
            raise self._unfit(
                f"tells outputs apart by their names, and none of {known} is called {' or '.join(missing)}",
                f"rename them in the model (of a .tflite by --output, all in order); part of a name says it: {words}",
            )
        shape = self.outputs[0].shape
        if layout == "rows" and shape[-1] not in (6, -1):
            raise self._unfit(f"has rows of {shape[-1]} numbers", "a row is a box, a score and a class: 6 numbers")
        if layout == "grid" and 4 + len(self.class_names) not in shape[-2:] and -1 not in shape[-2:]:
            raise self._unfit(f"has a grid of {list(shape)}", f"an axis has 4 + {len(self.class_names)} numbers")

    @property
    def _threshold(self) -> float:
        return HALF if self.spec.threshold is None else self.spec.threshold

    @property
    def _iou(self) -> float:
        return HALF if self.spec.iou is None else self.spec.iou

    def _layout(self) -> str:
        if self.spec.layout:
            return self.spec.layout
        return "outputs" if len(self.outputs) > 2 else "rows" if self.outputs[0].shape[-1:] == (6,) else "grid"

    def _roles(self) -> dict[str, str]:
        """The outputs by what they hold: the first whose name says it, each for one thing only."""
        found: dict[str, str] = {}
        for role in ("count", "boxes", "scores", "classes"):  # `num_boxes` is a count
            for tensor in self.outputs:
                said = any(word in tensor.name.lower() for word in WORDS[role])
                if said and tensor.name not in found.values() and tensor.name != self.spec.confidence:
                    found.setdefault(role, tensor.name)
        return found

    def _kept(self, found: Detections) -> Detections:
        over = np.flatnonzero(found.scores >= self._threshold)[:MOST]
        return Detections(found.boxes[over], found.scores[over], found.classes[over])

    def _candidates(self, outputs: Outputs) -> list[Detections]:
        """The boxes of every row whatever their score, best first; what is no number is no box."""
        layout = self._layout()
        if layout == "outputs":
            return self._from_outputs(outputs)
        rows = self.rows(outputs, self.outputs[0].name)
        if any(row.ndim != 2 for row in rows):
            raise MalformedError(
                f"detections are (n, k, numbers), not rows of {list(rows[0].shape)}", subject="outputs"
            )
        return [self._from_grid(row) if layout == "grid" else self._from_rows(row) for row in rows]

    def _from_outputs(self, outputs: Outputs) -> list[Detections]:
        roles = self._roles()
        boxes, scores, classes = (self.rows(outputs, roles.get(role, role)) for role in ("boxes", "scores", "classes"))
        counts = self.rows(outputs, roles["count"]) if "count" in roles else [np.asarray(row.size) for row in scores]
        if len({len(rows) for rows in (boxes, scores, classes, counts)}) != 1:
            raise MalformedError("boxes, scores and classes are of different batches", subject="outputs")
        found = []
        for b, s, c, count in zip(boxes, scores, classes, counts, strict=True):
            size = s.size
            if b.size != 4 * size or c.size != size:
                raise MalformedError(f"{b.size} numbers of boxes, {size} scores, {c.size} classes", subject="outputs")
            said = float(count.reshape(-1)[0]) if count.size else 0.0
            end = int(min(max(said, 0.0), size)) if said == said else 0
            found.append(self._sorted(b.reshape(-1, 4)[:end], s.reshape(-1)[:end], c.reshape(-1)[:end]))
        return found

    def _from_rows(self, row: AnyArray) -> Detections:
        if row.shape[1] != 6:
            raise MalformedError(f"a row of a detection has 6 numbers, not {row.shape[1]}", subject="outputs")
        return self._sorted(row[:, :4], row[:, 4], row[:, 5])

    def _from_grid(self, row: AnyArray) -> Detections:
        wanted = 4 + len(self.class_names)
        table = np.asarray(row.T if row.shape[0] == wanted else row, np.float64)
        if table.shape[1] != wanted:
            raise MalformedError(f"no axis of {list(row.shape)} has 4 + {wanted - 4} numbers", subject="outputs")
        scores = sigmoid(table[:, 4:]) if self.spec.logits else table[:, 4:]
        found = self._sorted(table[:, :4], scores.max(axis=1), scores.argmax(axis=1))
        likely = slice(0, min(max(1, int((found.scores >= self._threshold).sum())), MOST))
        best = Detections(found.boxes[likely], found.scores[likely], found.classes[likely])
        kept = suppress(*best, iou=self._iou)
        return Detections(best.boxes[kept], best.scores[kept], best.classes[kept])

    def _sorted(self, boxes: AnyArray, scores: AnyArray, classes: AnyArray) -> Detections:
        whole = corners(boxes, self.spec.box or "xyxy")
        sure, kinds = np.asarray(scores, np.float64), np.asarray(classes, np.float64)
        known = np.isfinite(whole).all(axis=1) & np.isfinite(sure) & np.isfinite(kinds) & (np.abs(kinds) < 2**31)
        whole, sure, kinds = whole[known], sure[known], kinds[known]
        order = np.argsort(-sure, kind="stable")
        return Detections(whole[order], sure[order], kinds[order].astype(np.int64))

    def _labelled(self, item: object) -> dict[str, Any]:
        wanted = '{"box": [x1, y1, x2, y2], "class": number or name} with x1 <= x2 and y1 <= y2'
        if not isinstance(item, dict) or set(item) != {"box", "class"} or not isinstance(item["box"], list | tuple):
            raise self.wrong(item, wanted)
        box = [self.number_of(number) for number in item["box"]]
        if len(box) != 4 or box[0] > box[2] or box[1] > box[3]:
            raise self.wrong(item, wanted)
        return {"box": box, "class": self.class_of(item["class"])}
