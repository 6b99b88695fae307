"""From a release's outputs to calibrated confidence and class per row; what is no answer has none.

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
from fleet.protocol.confidence import confidence, probabilities
from fleet.protocol.finite import not_finite

KEPT = 1024  # values of an output; a larger one is scored at once, so that what waits stays small


class Scores(NamedTuple):
    """Per row of a batch: calibrated confidence and class index; empty for a model without classes."""

    confidence: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()


def score(release: InstalledRelease, outputs: Arrays) -> Scores:
    """Scores from the first output.

    Raises:
        InferenceError: an output holds NaN or infinity where the manifest wants finite numbers.
        MalformedError: the first output is no (rows, classes) table.
    """
    check_outputs(release, outputs)
    if not release.manifest.labels:
        return Scores()
    return _scores(release, outputs[release.manifest.outputs[0].name])


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
            self._found = _scores(self._release, table)
            self._table = None
        assert self._found is not None
        return self._found


def score_later(release: InstalledRelease, outputs: Arrays) -> PendingScores:
    """Like `score`, and raises like it; only what cannot fail any more is put off."""
    check_outputs(release, outputs)
    if not release.manifest.labels:
        return PendingScores(release, None, Scores())
    first = outputs[release.manifest.outputs[0].name]
    if first.ndim == 2 and 0 < first.size <= KEPT and _temperature(release) > 0:
        return PendingScores(release, first.copy())
    return PendingScores(release, None, _scores(release, first))


def score_all(pending: Sequence[PendingScores]) -> None:
    """Compute what is still to be computed, all of one release and width in one go."""
    groups: dict[tuple[int, int], list[tuple[PendingScores, npt.NDArray[Any]]]] = {}
    for one in pending:
        table = one._table
        if table is not None:
            groups.setdefault((id(one._release), table.shape[1]), []).append((one, table))
    for group in groups.values():
        found = _scores(group[0][0]._release, np.concatenate([table for _, table in group]))
        end = 0
        for one, table in group:
            start, end = end, end + len(table)
            one._found = Scores(found.confidence[start:end], found.classes[start:end])
            one._table = None


def _temperature(release: InstalledRelease) -> float:
    deferral = release.variant.deferral
    return deferral.temperature if deferral is not None else 1.0


def _scores(release: InstalledRelease, first: npt.NDArray[Any]) -> Scores:
    table = probabilities(first, temperature=_temperature(release), apply_softmax=release.variant.apply_softmax)
    return Scores(tuple(confidence(table).tolist()), tuple(table.argmax(axis=1).tolist()))
