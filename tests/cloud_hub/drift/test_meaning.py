"""The test on how right answers are: silent while nothing changes, loud when the answers become worse."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.drift.meaning import Track, Unit, again, count
from tests.support.size import sized

BUDGET_DAYS = 1000.0


def run(shares: np.ndarray, track: Track | None = None, enough: int = 30) -> tuple[Track, int | None]:
    """The track after these units, one a quarter of an hour, and after which one an alarm was due."""
    track, due = track or Track(), None
    for number, share in enumerate(shares):
        track = count(track, Unit(device_id="d", at=900.0 * number, share=float(share)), enough)
        if due is None and track.log_e >= track.limit(BUDGET_DAYS):
            due = number
    return track, due


def audited(rate: float, windows: int, seed: int, audits: int = 6) -> np.ndarray:
    """Agreement of windows with a few audits each."""
    return np.random.default_rng([seed, int(1000 * rate)]).binomial(audits, rate, windows) / audits


@pytest.mark.parametrize("rate", [0.6, 0.93, 1.0])
def test_it_is_silent_while_the_answers_are_as_good_as_ever(rate: float) -> None:
    runs = sized(6, 200)
    assert sum(run(audited(rate, sized(700, 1500), seed))[1] is not None for seed in range(runs)) <= 0.02 * runs


@pytest.mark.parametrize(("before", "after", "within"), [(0.93, 0.7, 100), (1.0, 0.9, 150), (0.6, 0.2, 100)])
def test_it_speaks_soon_when_they_become_worse(before: float, after: float, within: int) -> None:
    for seed in range(sized(2, 50)):
        good, _ = run(audited(before, 200, seed))
        assert run(audited(after, within, seed), good)[1] is not None


def test_shares_of_any_kind_are_held_to_their_own_record() -> None:
    """A detector's agreement is an F1 score, a regression's a share of values: neither is 0 or 1."""
    rng = np.random.default_rng(0)
    good, due = run(rng.beta(8, 4, 800))
    assert due is None and good.record is not None and good.record.mean == pytest.approx(8 / 12, abs=0.1)
    worse, due = run(rng.beta(4, 8, 200), good)
    assert due is not None and worse.now == pytest.approx(1 / 3, abs=0.15)
    assert again(worse).log_e == 0.0 and again(worse).record == worse.record


def test_a_release_that_was_never_right_cannot_become_worse() -> None:
    track, due = run(np.zeros(200))
    assert due is None and track.record is not None and track.now == 0.0


def test_without_enough_units_there_is_no_record_and_no_verdict() -> None:
    track, due = run(np.zeros(29))
    assert track.record is None and due is None and track.counted == 29 and track.now == 0.0
