"""A recipe tried in seconds, without a hub: all of a run's steps on a handful of rows, each with what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cloud_hub.errors import HubError
from cloud_hub.training.checking import Settled, handful
from cloud_hub.training.dealing import Parts, deal_run
from cloud_hub.training.examples import Examples, Sets
from cloud_hub.training.models import Made
from cloud_hub.training.recipe import LoadedRecipe
from cloud_hub.training.run import onnx_of_made, settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.teacher_student import train_student, train_teacher
from fleet.protocol.task import CLASSIFICATION, task_in_words
from model_compiler.build.adapting import original
from model_compiler.user_file import said

ROWS = 64  # of each held-out set


@dataclass(frozen=True)
class RehearsalStep:
    """One step of a rehearsal; what failed says what to do in `hint`."""

    name: str
    passed: bool
    words: str
    hint: str = ""


def rehearse(loaded: LoadedRecipe, out: Path) -> Iterator[RehearsalStep]:
    """Go through a run's steps; the first that fails is the last.

    Args:
        out: a folder for what the run writes.
    """
    recipe = loaded.recipe
    hyper = replace(recipe.hyper, teacher_epochs=1, student_epochs=1, warm_epochs=None)
    rehearsal = _Rehearsal(RunRequest(replace(loaded, recipe=replace(recipe, hyper=hyper)), out))
    for name, step in rehearsal.steps():
        try:
            yield RehearsalStep(name, True, step())
        except HubError as error:
            yield RehearsalStep(name, False, str(error), error.hint)
            return
        except Exception as error:  # noqa: BLE001 (the recipe is the user's own program and raises what it likes)
            yield RehearsalStep(name, False, said(error), "see the recipe's code there, and how-to/write-a-recipe.md")
            return


class _Rehearsal:
    """The steps, each with what the earlier ones made."""

    settled: Settled
    parts: Parts
    teacher: Made | None
    student: Made

    def __init__(self, request: RunRequest) -> None:
        self._request = request

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """Name and function of each."""
        recipe = self._request.loaded.recipe
        found = [("data and networks", self._settle)]
        if recipe.teacher is not None:
            found.append(("teacher", self._teach))
        found.append(("fit" if recipe.fit is not None else "student", self._fit))
        if recipe.fit is None and recipe.warm is not False:
            found.append(("retrain", self._fit_again))
        return [
            *found,
            ("metric", self._measure),
            ("export", self._export),
        ]

    def _settle(self) -> str:
        self.settled = settled = settle_run(self._request)
        whole = deal_run(self._request, settled)
        held = slice(ROWS)
        self.parts = replace(
            whole,
            train=handful(whole.train),
            calibration=whole.calibration.take(held),
            validation=whole.validation.take(held),
            exam=whole.exam.take(held),
        )
        inputs = ", ".join(f"{n} {a.dtype} {_shape(a)}" for n, a in settled.sets.train.inputs.items())
        outputs = ", ".join(f"{t.name} {list(t.shape[1:])}" for t in settled.task.outputs)
        task = task_in_words(settled.spec) if settled.spec is not None else CLASSIFICATION
        said = "".join(f"; {finding}" for finding in settled.findings)
        return f"{_counts(settled.sets)}; inputs {inputs}; outputs {outputs}; task {task}{said}"

    def _teach(self) -> str:
        self.teacher = train_teacher(self._request, self.parts, self.settled)
        return "one epoch"

    def _fit(self) -> str:
        self.teacher = getattr(self, "teacher", None)
        self.student = train_student(self._request, self.parts, self.settled, self.teacher)
        return f"{'one epoch' if self._request.loaded.recipe.fit is None else 'fitted'} on {len(self.parts.train)} rows"

    def _fit_again(self) -> str:
        """Start a student from the weights of the one before, as a retrain does."""
        assert self.student.module is not None  # the kit's loop made it
        weights = {name: value.numpy() for name, value in original(self.student.module).state_dict().items()}
        request = replace(self._request, out=self._request.out / "again", start={"student": weights})
        train_student(request, self.parts, self.settled, self.teacher)
        return "one epoch from these weights"

    def _measure(self) -> str:
        part = self.parts.validation.with_labels()
        value = self.settled.metric.measure(self.student.answers(part.inputs), part.y)[0]
        return f"{self.settled.metric.name} {value:.4g} on {len(part)} rows of the validation set, hardly trained"

    def _export(self) -> str:
        models = [made for made in (self.student, self.teacher) if made is not None]
        sizes = [len(onnx_of_made(made, self.parts.train)) for made in models]
        return f"as ONNX, {' and '.join(f'{size:,} bytes' for size in sizes)}"


def _counts(sets: Sets) -> str:
    parts = {name: getattr(sets, name) for name in ("train", "calibration", "validation", "exam")}
    return ", ".join(f"{name} {_rows(part)}" for name, part in parts.items())


def _rows(part: Examples) -> str:
    known = int(part.labelled.sum())
    return f"{len(part)} rows" + (f" ({known} labelled)" if known < len(part) else "")


def _shape(array: np.ndarray) -> str:
    return str(["n", *array.shape[1:]]).replace("'", "")
