"""Samples that are nearly the same fall on one side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.training.alike import groups, split
from cloud_hub.training.dealing import deal
from cloud_hub.training.examples import Examples, Sets

RANDOM = np.random.default_rng(0)


def samples(*inputs: np.ndarray) -> Examples:
    return Examples({f"in{n}": array for n, array in enumerate(inputs)}, np.arange(len(inputs[0])))


@pytest.mark.parametrize("size", [4, 300])
def test_frames_of_one_scene_are_one_group(size: int) -> None:
    scenes = RANDOM.normal(size=(20, size)) * 7 + 50  # where the data lies and how wide does not matter
    frames = np.repeat(scenes, 5, axis=0) + 0.05 * RANDOM.normal(size=(100, size))
    found = groups(samples(frames.astype(np.float32)))
    assert found.tolist() == np.repeat(np.arange(20), 5).tolist()


def test_what_is_alike_in_a_chain_is_one_group_and_independent_samples_are_none() -> None:
    drift = np.linspace(0, 1, 50)[:, None] * np.ones(5) * 9
    far = RANDOM.normal(size=(50, 5)) * 30
    found = groups(samples(np.concatenate([drift, far]).astype(np.float32)))
    assert len(set(found[:50])) == 1 and len(set(found[50:])) == 50


def test_repeats_are_one_group_also_of_text_of_nan_and_where_all_are_the_same() -> None:
    words = np.array([b"a", b"b", b"a"], object)
    assert groups(samples(words)).tolist() == [0, 1, 0]
    assert groups(samples(words, np.array([[1.0], [2.0], [3.0]]))).tolist() == [0, 1, 2]
    assert groups(samples(np.array([[np.nan], [1.0], [np.nan]]))).tolist() == [0, 1, 0]
    assert groups(samples(np.ones((3, 2), np.uint8))).tolist() == [0, 0, 0]
    assert groups(samples(np.zeros((0, 2), np.float32))).tolist() == []


def test_an_input_of_large_numbers_does_not_hide_another() -> None:
    large, small = RANDOM.normal(size=(40, 1)) * 1e6, RANDOM.normal(size=(40, 3))
    large[1::2], small_too = large[::2], small.copy()
    assert len(set(groups(samples(large, small_too)))) == 40


@pytest.mark.parametrize("size", [1, 2, 3, 10, 200])
def test_independent_samples_stay_apart_in_few_dimensions_too(size: int) -> None:
    """Else what is close by chance would chain up, and leave nothing to judge by."""
    found = groups(samples(RANDOM.normal(size=(1500, size)).astype(np.float32)))
    assert len(set(found)) >= 1490 and np.bincount(found).max() <= 3


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 12), st.integers(0, 12), st.integers(0, 99))
def test_parts_hold_every_row_once_whole_groups_and_no_more_than_their_size(
    group: list[int], one: int, two: int, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(group))
    parts = split(np.array(group), order, (one, two))
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(group)))
    assert len(parts[0]) <= one and len(parts[1]) <= two
    held = [{group[row] for row in part} for part in parts]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]


def test_without_groups_a_split_is_by_the_order_alone() -> None:
    order = RANDOM.permutation(20)
    parts = split(np.arange(20), order, (5, 2))
    assert [part.tolist() for part in parts] == [order[:5].tolist(), order[5:7].tolist(), order[7:].tolist()]


def test_a_gate_never_judges_by_frames_of_a_scene_that_was_trained_on() -> None:
    scenes = RANDOM.normal(size=(30, 8)).astype(np.float32)
    frames = np.repeat(scenes, 4, axis=0) + 0.01 * RANDOM.normal(size=(120, 8)).astype(np.float32)
    own = Examples(RANDOM.normal(size=(10, 8)).astype(np.float32), np.zeros(10, np.int64))
    sets = Sets(own, own.take(slice(2)), own.take(slice(2)), own)
    parts = deal(sets, Examples(frames, np.repeat(np.arange(30), 4)), seed=1, repeats=2)
    trained, judged = set(parts.train.y[10:].tolist()), set(parts.gate.y.tolist())
    assert judged and not trained & judged and 24 <= len(parts.gate) <= 30
