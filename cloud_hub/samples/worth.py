"""An order in which to label samples. Pure.

A sample is worth a label when the model is likely to be wrong about it, and when it is unlike what has a label.

- *Likely wrong*, in [0, 1]: the share of candidates that the model is surer of (by rank, since a confidence need not be
  calibrated; without any confidence it is a half for all), raised by half of what is left where device and cloud
  disagree, and again where the input was outlying.
- *Unlike*: the distance to the nearest sample that is labelled or picked, as a share of what 99 of 100 random pairs lie
  within, at most 1: a few forged samples far away gain nothing by being farther. Picking the farthest one, again and
  again, covers the candidates with a radius of at most twice the best possible (greedy k-centre: Gonzalez 1985; for
  labels: Sener & Savarese 2018). Here the product of both decides, so that guarantee does not hold: a far sample that
  the model is sure of waits.
- *Near repeats* are out: of samples that are alike (`cloud_hub.samples.repeats`: nearer than a tenth of the median
  distance of random pairs) one is a candidate, and none where one has a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cloud_hub.samples.repeats import grouped, pair_distances

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
FAR = 99  # percentile of the distances of random pairs
RAISE = 0.5  # of what is left to 1, for a disagreement or an outlying input


@dataclass(frozen=True)
class Known:
    """The facts about n samples: `points` (n, d) finite, `confidence` (n,) finite, whether device and cloud
    `disagree`, whether the input was `outlying`, whether there is a label (`labelled`), and `exact`, int64 (n,): the
    group of exact repeats."""

    points: Floats
    confidence: Floats
    disagree: Flags
    outlying: Flags
    labelled: Flags
    exact: Rows


@dataclass(frozen=True)
class Pick:
    """A sample to label: its row, how likely the model is `wrong` about it, how `unlike` it is; all in [0, 1]."""

    row: int
    wrong: float
    unlike: float

    @property
    def worth(self) -> float:
        """The value that orders picks, in [0, 1]."""
        return self.wrong * self.unlike


@dataclass(frozen=True)
class Ranking:
    """At most as many picks as asked for, the first one first; `repeats` candidates were near repeats."""

    picks: tuple[Pick, ...]
    repeats: int


def rank(known: Known, count: int) -> Ranking:
    """The samples to label first; the same samples in the same order give the same answer.

    Args:
        known: of all samples, those with a label among them.
        count: how many are wanted.
    """
    rows = np.flatnonzero(~known.labelled)
    if not len(rows):
        return Ranking((), 0)
    wrong = np.zeros(len(known.labelled))
    wrong[rows] = likely_wrong(known.confidence[rows], known.disagree[rows], known.outlying[rows])
    group = grouped(known.points, known.exact) if len(known.points) > 1 else known.exact
    first = _one_of_each(rows, group, wrong, known.labelled)
    return Ranking(tuple(_picked(known, first, wrong, count)), len(rows) - len(first))


def likely_wrong(confidence: Floats, disagree: Flags, outlying: Flags) -> Floats:
    """Rank how likely the model is wrong about each candidate, (n,) in [0, 1]; an order, no probability."""
    ordered = np.sort(confidence)
    surer = len(ordered) - np.searchsorted(ordered, confidence, "right")
    equal = len(ordered) - np.searchsorted(ordered, confidence, "left") - surer
    right: Floats = 1.0 - (surer + equal / 2) / len(ordered)
    found: Floats = 1.0 - right * np.where(disagree, 1 - RAISE, 1.0) * np.where(outlying, 1 - RAISE, 1.0)
    return found


def _one_of_each(rows: Rows, group: Rows, wrong: Floats, labelled: Flags) -> Rows:
    """Of each group without a label the row that is most likely wrong, the earliest of equals."""
    done = set(group[labelled].tolist())
    best: dict[int, int] = {}
    for row in rows.tolist():
        mine = int(group[row])
        if mine not in done and (mine not in best or wrong[row] > wrong[best[mine]]):
            best[mine] = row
    return np.array(sorted(best.values()), np.int64)


def _picked(known: Known, rows: Rows, wrong: Floats, count: int) -> list[Pick]:
    """Weighted farthest-first over the rows."""
    if not len(rows):
        return []
    points = known.points[rows]
    pairs = pair_distances(known.points)
    scale = float(np.percentile(pairs, FAR)) or float(pairs.max()) or 1.0
    unlike = np.ones(len(rows))
    for labelled in known.points[known.labelled]:
        unlike = np.minimum(unlike, np.linalg.norm(points - labelled, axis=1) / scale)
    left = np.ones(len(rows), bool)
    picks = []
    for _ in range(min(count, len(rows))):
        place = int(np.argmax(np.where(left, wrong[rows] * unlike, -1.0)))
        left[place] = False
        picks.append(Pick(int(rows[place]), float(wrong[rows[place]]), float(unlike[place])))
        unlike = np.minimum(unlike, np.linalg.norm(points - points[place], axis=1) / scale)
    return picks
