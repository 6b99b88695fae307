"""Samples become points that keep their distances, whatever devices send."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.samples.embedding import DIMENSIONS, FARTHEST, embed, standardise
from fleet.protocol.tensors import to_array

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [500, 20_000])
def test_distances_are_kept_to_about_a_fifth(size: int) -> None:
    images = RANDOM.normal(size=(60, size)).astype(np.float32)
    points = np.stack([embed([to_array("x", image[None])]) for image in images])
    assert points.shape == (60, DIMENSIONS)
    true, kept = (np.linalg.norm(a[:30] - a[30:], axis=1) for a in (images.astype(np.float64), points))
    assert np.abs(kept / true - 1).mean() < 0.15
    assert abs((kept / true).mean() - 1) < 0.06


def test_inputs_go_by_name_and_few_numbers_stay_what_they_are() -> None:
    a, b = to_array("a", np.array([[1.5, 2]], np.float32)), to_array("b", np.array([[3]], np.int64))
    point = embed([b, a])
    assert point.tolist() == embed([a, b]).tolist()
    assert point[:2].tolist() == [1.5, 2] and point[DIMENSIONS] == 3 and np.count_nonzero(point) == 3


def test_nan_and_infinity_make_points_and_no_sample_moves_another() -> None:
    rows = [np.array([[v, 1.0, 0.0]], np.float64) for v in (1.0, 2.0, 3.0, 4.0)]
    plain = [embed([to_array("x", row)]) for row in rows]
    wild = [embed([to_array("x", np.array([[v, v, v]], np.float64))]) for v in (np.nan, np.inf, -np.inf, 1e308)]
    points = standardise(np.stack([*plain, *plain, *wild]))
    assert np.isfinite(points).all() and np.abs(points).max() <= FARTHEST
    assert 0.2 < points[1, 0] - points[0, 0] < 2


def test_texts_with_other_words_are_apart() -> None:
    def text(words: str) -> np.ndarray:
        return embed([to_array("t", np.array([words.encode()], object))])

    near = np.linalg.norm(text("the pump is leaking oil today") - text("the pump is leaking oil again"))
    far = np.linalg.norm(text("the pump is leaking oil today") - text("no network since monday"))
    assert 0 < near < far
    assert np.isfinite(text("")).all()
