"""The teacher gate: chance passes, a teacher that is clearly worse does not."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import pytest

from cloud_hub.training import gate
from cloud_hub.training.gate import LEAST, LEVEL, MARGIN, Comparison, compare, compare_sets
from tests.support.size import sized


def right(lost: int, won: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    old = [True] * lost + [False] * won + [True] * both
    new = [False] * lost + [True] * won + [True] * both
    return np.array(old), np.array(new)


@pytest.mark.parametrize(
    ("lost", "won", "chance", "refused"),
    [
        (0, 0, 1.0, False),
        (1, 0, 0.5, False),
        (3, 0, 0.125, False),
        (4, 0, 0.0625, True),
        (6, 3, 130 / 512, False),
        (20, 5, 0.002, True),
        (0, 9, 1.0, False),
    ],
)
def test_exact_probabilities(lost: int, won: int, chance: float, refused: bool) -> None:
    found = compare(*right(lost, won, both=40))
    assert found.chance == pytest.approx(chance, abs=2e-4)
    assert found.refused is refused
    assert (found.lost, found.won, found.labels) == (lost, won, 40 + lost + won)
    assert found.old - found.new == pytest.approx((lost - won) / found.labels)


def often(points: float, labels: int, runs: int, judge: Callable[[np.ndarray, np.ndarray], Comparison]) -> float:
    """The share of runs in which a teacher, `points` worse than the one before, is shown to be good enough."""
    rng = np.random.default_rng([labels, int(1000 * points)])
    shown = 0
    for _ in range(runs):
        old = rng.random(labels) < 0.9
        flips = rng.random(labels)
        new = np.where(old, flips >= 0.05 + points, flips < 0.45)  # 4.5 % won, so many and `points` lost
        shown += judge(old, new).shown
    return shown / runs


def as_shares(old: np.ndarray, new: np.ndarray) -> Comparison:
    return compare(0.9 * old, 0.9 * new)


@pytest.mark.parametrize("judge", [compare, as_shares])
@pytest.mark.parametrize("labels", [25, 100, 400])
def test_a_worse_teacher_is_not_shown_to_be_good(labels: int, judge: Callable[..., Comparison]) -> None:
    assert often(0.056, labels, sized(200, 5000), judge) <= 0.05


def test_an_equal_teacher_is_shown_with_labels_enough() -> None:
    assert often(0.0, 400, sized(200, 5000), compare) >= 0.8
    assert often(0.0, 1500, sized(50, 1000), as_shares) >= 0.8


def test_no_evidence_is_no_proof() -> None:
    assert not compare(*right(0, 0, both=10)).shown and not as_shares(*right(0, 0, both=10)).shown
    assert compare(*right(0, 0, both=100)).shown and compare(*right(0, 28, both=20)).shown


@pytest.mark.parametrize("labels", [3, 4, 52, 61, 90])
def test_luck_is_no_proof_however_few_or_many_labels_there_are(labels: int) -> None:
    """A teacher that is worse by the margin, by all that it may lose and win: exact, and within the level."""
    shown, most = [], -1
    for won in range(labels + 1):  # the more it wins the more it may lose, and what loses more is not shown
        while won + most < labels and compare(*right(most + 1, won, both=labels - most - 1 - won)).shown:
            most += 1
        shown += [(lost, won) for lost in range(min(most, labels - won) + 1)]
    for wins in (0.0, 0.01, 0.045, 0.2, 0.475):
        luck = sum(
            comb(labels, lost)
            * comb(labels - lost, won)
            * (wins + MARGIN) ** lost
            * wins**won
            * max(1 - MARGIN - 2 * wins, 0.0) ** (labels - lost - won)
            for lost, won in shown
        )
        assert luck <= 1 - LEVEL, wins


@pytest.mark.parametrize(("labels", "shown"), [(1, False), (LEAST - 1, False), (LEAST, True)])
def test_a_metric_of_few_labels_shows_nothing(labels: int, shown: bool) -> None:
    assert compare_sets(lambda rows: 0.9, lambda rows: 0.9, labels).shown is shown


def test_a_metric_of_whole_sets_is_shown_by_the_bootstrap() -> None:
    truth = np.random.default_rng(0).random(200)

    def score(noise: float) -> Callable[[np.ndarray], float]:
        said = truth + np.random.default_rng(1).normal(0, noise, 200)
        return lambda rows: float(np.corrcoef(said[rows], truth[rows])[0, 1])

    assert compare_sets(score(0.1), score(0.1), 200).shown
    worse = compare_sets(score(0.1), score(0.3), 200)
    assert not worse.shown and worse.refused


@pytest.mark.parametrize(("lost", "won", "labels"), [(0, 0, 1), (3, 5, 40), (40, 0, 40), (12, 9, 201)])
def test_for_each_number_of_wins_the_most_losses_are_found_that_are_as_good(lost: int, won: int, labels: int) -> None:
    wins = np.arange(labels + 1)
    least = float(gate._score(np.array(lost), np.array(won), labels, MARGIN)) - 1e-9
    one_by_one = [
        max(
            (k for k in range(labels - w + 1) if gate._score(np.array(k), np.array(w), labels, MARGIN) >= least),
            default=-1,
        )
        for w in wins
    ]
    assert gate._most_lost(wins, labels, MARGIN, least).tolist() == one_by_one


def test_many_labels_take_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    score, steps = gate._score, []
    monkeypatch.setattr(gate, "_score", lambda *of: steps.append(1) or score(*of))
    gate._most_lost(np.arange(100_001), 100_000, MARGIN, 1.0)
    assert len(steps) < 20
