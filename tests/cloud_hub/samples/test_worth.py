"""The samples to label: uncertain, disagreeing and outlying first, spread over the inputs, near repeats out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.samples.worth import Known, likely_wrong, rank

RANDOM = np.random.default_rng(0)


def known(points: np.ndarray, confidence: np.ndarray | float = 0.5, labelled: tuple[int, ...] = ()) -> Known:
    count = len(points)
    mark = np.zeros(count, bool)
    mark[list(labelled)] = True
    none = np.zeros(count, bool)
    exact = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return Known(points.astype(np.float64), np.full(count, confidence, np.float64), none, none, mark, exact)


def test_the_order_of_confidences_counts_and_signals_raise() -> None:
    none, first = np.zeros(4, bool), np.array([True, False, False, False])
    confidence = np.array([0.999, 0.998, 0.5, 0.1])
    assert likely_wrong(confidence, none, none).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert likely_wrong(confidence, first, none)[0] == 1 - 0.875 / 2
    assert likely_wrong(confidence, first, first)[0] == 1 - 0.875 / 4
    assert likely_wrong(np.zeros(4), none, none).tolist() == [0.5] * 4  # a task without any confidence


def test_frames_of_one_scene_are_asked_for_once() -> None:
    scenes = RANDOM.normal(size=(10, 64))
    points = np.repeat(scenes, 20, axis=0) + 0.005 * RANDOM.normal(size=(200, 64))
    found = rank(known(points, RANDOM.random(200)), 50)
    assert sorted(pick.row // 20 for pick in found.picks) == list(range(10))
    assert found.repeats == 190


def test_what_is_like_a_labelled_sample_is_not_asked_for() -> None:
    scenes = RANDOM.normal(size=(5, 64))
    points = np.concatenate([scenes, scenes + 0.002 * RANDOM.normal(size=(5, 64))])
    found = rank(known(points, labelled=(0, 1)), 50)
    assert {pick.row % 5 for pick in found.picks} == {2, 3, 4}
    assert found.repeats == 8 - 3


def test_picks_cover_the_clusters_that_the_least_confident_do_not() -> None:
    """Nine tenths of the samples, among them all of the least confident, lie in one of ten clusters."""
    which = np.where(np.arange(500) < 450, 0, 1 + np.arange(500) % 9)
    points = 20 * RANDOM.normal(size=(10, 8))[which] + RANDOM.normal(size=(500, 8))
    confidence = np.where(which == 0, 0.5, 0.6) + 0.01 * RANDOM.random(500)
    sure = np.argsort(confidence)[:20]
    assert len(set(which[sure])) == 1
    assert len({int(which[pick.row]) for pick in rank(known(points, confidence), 20).picks}) >= 8


def test_nothing_to_label_and_a_lone_sample() -> None:
    one = np.ones((1, 3))
    assert rank(known(one, labelled=(0,)), 5).picks == ()
    assert [pick.row for pick in rank(known(one), 5).picks] == [0]
    assert [pick.row for pick in rank(known(np.ones((4, 3))), 5).picks] == [0]  # all the same


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_picks_are_candidates_each_once_and_within_bounds(count: int, wanted: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.integers(0, 3, (count, 2)).astype(np.float64)
    labelled = tuple(np.flatnonzero(random.random(count) < 0.2).tolist())
    look = known(points, random.random(count), labelled)
    found = rank(look, wanted)
    rows = [pick.row for pick in found.picks]
    assert len(rows) == len(set(rows)) <= wanted and not set(rows) & set(labelled)
    assert all(0 <= pick.wrong <= 1 and 0 <= pick.unlike <= 1 for pick in found.picks)
    assert len({int(look.exact[row]) for row in rows}) == len(rows)
    assert found == rank(look, wanted)
