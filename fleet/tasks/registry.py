"""Tasks by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.task import CLASSIFICATION, CUSTOM, TaskSpec, task_capability
from fleet.tasks.base import Task
from fleet.tasks.classes import Classification, MultiLabel
from fleet.tasks.custom import Custom
from fleet.tasks.detection import Detection
from fleet.tasks.values import AnomalyScore, Embedding, Regression

_KINDS: dict[str, type[Task[Any]]] = {
    kind.name: kind for kind in (Classification, MultiLabel, Regression, Detection, AnomalyScore, Embedding, Custom)
}
NAMES = tuple(_KINDS)


def of(spec: TaskSpec | None, classes: Sequence[str], outputs: Sequence[Tensor]) -> Task[Any]:
    """The task of a model.

    Args:
        spec: as the interface names it; None for a model whose answers nobody scores.
        classes: the class names in output order; empty without.
        outputs: the model's outputs; the first one is scored.

    Raises:
        MalformedError: no task of this name; the message lists those that exist.
    """
    wanted = spec if spec is not None else TaskSpec(name=CUSTOM)
    kind = _KINDS.get(wanted.name)
    if kind is None:
        raise MalformedError(
            f"there is no task {wanted.name!r}", subject="task", hint=f"the tasks are {', '.join(NAMES)}"
        )
    return kind(wanted, classes, outputs)


def of_manifest(manifest: Manifest) -> Task[Any]:
    """The task of a release; raises MalformedError when there is none of its name."""
    return of(manifest.named_task, manifest.labels, manifest.outputs)


def required_by(spec: TaskSpec | None) -> tuple[str, ...]:
    """Return the capabilities that a release of this task requires: none for a task that agents of 0.1 know."""
    return () if spec is None or spec.name == CLASSIFICATION else (task_capability(spec.name),)


def check_task(manifest: Manifest) -> None:
    """Raise MalformedError unless the release's task exists, fits its outputs, and is asked of its agents."""
    if not isinstance(manifest.task, TaskSpec):
        return
    of_manifest(manifest).check()
    missing = set(required_by(manifest.task)) - set(manifest.requires)
    if missing:
        raise MalformedError(
            f"a release of the task {manifest.task.name} must require {', '.join(missing)}",
            subject="task",
            hint="else agents that do not know the task would be offered it; model-compiler writes it",
        )
