"""The halves that `import` makes for the drift reference and its margin: they are alike, whatever the file's order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol import drift_encoder, sketch
from model_compiler.importing import halves
from model_compiler.inputs.dataset import Dataset


def digests(data: Dataset, rows: np.ndarray) -> set[bytes]:
    return {data.x[row].tobytes() for row in rows}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60), st.integers(0, 9))
def test_every_row_is_in_one_half_and_repeats_are_on_one_side(rows: list[tuple[int, int]], seed: int) -> None:
    data = Dataset({"x": np.array([[a] for a, _ in rows], np.float32)}, np.array([b for _, b in rows]))
    one, other = halves(data, seed, classes=True)
    assert sorted([*one, *other]) == list(range(len(rows)))
    assert not digests(data, one) & digests(data, other)
    assert len(one) <= len(other)


def test_a_file_that_is_sorted_by_class_is_split_within_each() -> None:
    y = np.repeat(np.arange(4), [40, 41, 7, 2])
    data = Dataset({"x": np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)}, y)
    one, other = halves(data, 0, classes=True)
    counts = [np.bincount(y[rows], minlength=4) for rows in (one, other)]
    assert np.abs(counts[0] - counts[1]).max() <= 1 and list(one) == sorted(one)
    assert [list(part) for part in halves(data, 0, classes=True)] == [list(one), list(other)]
    assert list(halves(data, 1, classes=True)[0]) != list(one)


def test_text_and_several_inputs_are_told_apart() -> None:
    words = np.array([b"a", b"a", b"b", b"b"], object)
    data = Dataset({"word": words, "x": np.array([0, 0, 0, 1], np.float32)})
    one, other = halves(data, 0, classes=False)
    assert sorted([*one, *other]) == [0, 1, 2, 3]
    assert {0, 1} <= set(one) or {0, 1} <= set(other)


def test_the_margin_of_a_sorted_file_is_that_of_a_shuffled_one() -> None:
    """Between its first and its last half, it would have let nearly every drift pass."""
    random = np.random.default_rng(1)
    y = np.repeat([0, 1], 150)
    x = (random.normal(size=(300, 6)) + 4 * y[:, None]).astype(np.float32)

    def margin(one: np.ndarray, other: np.ndarray) -> float:
        encoder = drift_encoder.fit_encoder(x[one], tensor="x", dims=4, features=64)
        return sketch.fit_margin(encoder, sketch.sketch(encoder, x[one]), x[other], seed=0)

    by_halves = margin(*halves(Dataset({"x": x}, y), 0, classes=True))
    in_order = margin(np.arange(150), np.arange(150, 300))
    shuffled = random.permutation(300)
    assert by_halves < 2 * margin(np.sort(shuffled[:150]), np.sort(shuffled[150:])) < in_order
