"""From a release's outputs to answers, by its task, with their calibrated confidence; what is no answer has none.

A softmax of one row costs 20 µs in numpy, of 256 rows hardly more. So an answer in process only keeps a copy of the
output that is scored: `PendingScores` are computed when somebody reads them, or many together (`score_all`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.errors import InferenceError
from edge_agent.ports import Arrays, InstalledRelease
from fleet import tasks
from fleet.protocol.finite import not_finite
from fleet.protocol.task import CLASSIFICATION
from fleet.protocol.telemetry import VALUES
from fleet.tasks import Calibration

KEPT = 1024  # values of an output; a larger one is scored at once, so that what waits stays small


class Scores(NamedTuple):
    """Per row of a batch: calibrated confidence and answer; empty where the task has none.

    `classes` are the class numbers in the answers, row after row: one each of a classification. `values` are the first
    numbers of each answer, where the task's answers are numbers.
    """

    confidence: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    answers: tuple[Any, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()


def score(
    release: InstalledRelease,
    outputs: Arrays,
    task: tasks.Task[Any] | None = None,
    calibration: Calibration | None = None,
) -> Scores:
    """Score outputs by the release's task and its calibration.

    Args:
        release: the one that answered.
        outputs: (n, …) by name.
        task: the release's, where a caller holds it already.
        calibration: the variant's, likewise.

    Raises:
        InferenceError: an output holds NaN or infinity where the manifest wants finite numbers.
        MalformedError: the outputs are not those of the task.
    """
    check_outputs(release, outputs)
    return _scores(release, outputs, task, calibration)


def check_outputs(release: InstalledRelease, outputs: Arrays) -> None:
    """Raise InferenceError when an output holds NaN or infinity where the manifest wants finite numbers."""
    broken = not_finite("output", outputs, release.manifest.outputs)
    if broken:
        raise InferenceError(f"model {release.model} release {release.number}: {broken}", subject=release.model)


class PendingScores:
    """Scores that are computed when they are first asked for; from any thread."""

    __slots__ = ("_found", "_release", "_table")

    def __init__(self, release: InstalledRelease, table: npt.NDArray[Any] | None, found: Scores | None = None) -> None:
        """`table` is (rows, classes) and nobody else's; None where the scores have been `found`."""
        self._release = release
        self._table = table
        self._found = found

    def get(self) -> Scores:
        """The scores."""
        table = self._table
        if table is not None:
            self._found = _scores(self._release, {self._release.manifest.outputs[0].name: table})
            self._table = None
        assert self._found is not None
        return self._found

    def names(self) -> tuple[str, ...]:
        """The names of the class numbers in the answers."""
        labels = self._release.manifest.labels
        return tuple(labels[number] if number < len(labels) else str(number) for number in self.get().classes)


def score_later(release: InstalledRelease, outputs: Arrays) -> PendingScores:
    """Like `score`, and raises like it; only what cannot fail any more is put off."""
    check_outputs(release, outputs)
    spec = release.manifest.named_task
    if spec is None:
        return PendingScores(release, None, Scores())
    first = outputs[release.manifest.outputs[0].name]
    certain = first.ndim == 2 and 0 < first.size <= KEPT and first.dtype.kind in "iuf" and _temperature(release) > 0
    if spec.name == CLASSIFICATION and not spec.confidence and certain:
        return PendingScores(release, first.copy())
    return PendingScores(release, None, _scores(release, outputs))


def score_all(pending: Sequence[PendingScores]) -> None:
    """Compute what is still to be computed, all of one release and width in one go."""
    groups: dict[tuple[int, int], list[tuple[PendingScores, npt.NDArray[Any]]]] = {}
    for one in pending:
        table = one._table
        if table is not None:
            groups.setdefault((id(one._release), table.shape[1]), []).append((one, table))
    for group in groups.values():
        release = group[0][0]._release
        tables = np.concatenate([table for _, table in group])
        found = _scores(release, {release.manifest.outputs[0].name: tables})
        end = 0
        for one, table in group:
            start, end = end, end + len(table)
            rows = slice(start, end)
            one._found = Scores(found.confidence[rows], found.classes[rows], found.answers[rows])
            one._table = None


def calibration_of(release: InstalledRelease) -> Calibration:
    """Return the calibration that turns the variant's outputs into confidence."""
    return Calibration(_temperature(release), release.variant.apply_softmax)


def _temperature(release: InstalledRelease) -> float:
    deferral = release.variant.deferral
    return deferral.temperature if deferral is not None else 1.0


def _scores(
    release: InstalledRelease,
    outputs: Arrays,
    task: tasks.Task[Any] | None = None,
    calibration: Calibration | None = None,
) -> Scores:
    task = task or tasks.of_manifest(release.manifest)
    reading = task.read(outputs, calibration or calibration_of(release))
    classes = task.all_classes(reading.answers)
    values = tuple(task.values(a)[:VALUES] for a in reading.answers) if task.summarises == "values" else ()
    return Scores(reading.confidence, classes, reading.answers, values)
