"""A release's name of its task: the kind of answer, and the numbers that comparing two answers needs.

The meaning of a task is code (`fleet.tasks`); this part is signed. A release of 0.1 names none. It is a classification
where it has class names, else nobody scores its answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict

CLASSIFICATION, MULTI_LABEL, DETECTION = "classification", "multi-label", "detection"
REGRESSION, ANOMALY_SCORE = "regression", "anomaly-score"
CUSTOM = "custom"
NO_CLASS = -1  # a sample's prediction where the answer is not one class


class TaskSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task by name, with its settings; one that is None or empty has the task's default.

    `tolerance`: how far two values may lie apart, in the output's unit. `threshold`: the score from which something is
    there. `low` and `high` bound the labels of values. `agree_at`: the agreement, in [0, 1], from which two answers
    count as the same. `confidence` names an output that holds one number in [0, 1] per answer. `logits`: scores are
    logits, not probabilities. `agreement` is how a custom task compares (`equal`, `tolerance`, `cosine`). `layout`,
    `box` and `iou` are a detection's: how the outputs hold boxes, what a box's four numbers are, and the overlap from
    which two boxes are one.
    """

    name: str
    tolerance: float | None = None
    threshold: float | None = None
    low: float | None = None
    high: float | None = None
    agree_at: float | None = None
    confidence: str = ""
    logits: bool = False
    agreement: str = ""
    layout: str = ""
    box: str = ""
    iou: float | None = None


def task_capability(name: str) -> str:
    """Return the capability that a release of this task requires of an agent; agents of 0.1 know classification."""
    return f"task:{name}"


_CLASSIFICATION = TaskSpec(name=CLASSIFICATION)


def implied(labels: Sequence[str]) -> TaskSpec | None:
    """The task of a release that names none; None where nobody scores its answers."""
    return _CLASSIFICATION if labels else None


def task_in_words(spec: TaskSpec | None) -> str:
    """A task as messages show it: `regression (tolerance 0.5)`."""
    if spec is None:
        return "none"
    said = [f"{key} {value}" for key, value in asdict(spec).items() if key != "name" and value not in (None, "", False)]
    return f"{spec.name} ({', '.join(said)})" if said else spec.name
