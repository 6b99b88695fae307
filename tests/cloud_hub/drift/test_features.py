"""The features that moved, from windows before and after; pure."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.drift.features import in_words, moved, pooled
from fleet.protocol.figures import planned_figures, summarize_input
from fleet.protocol.manifest import Tensor

RNG = np.random.default_rng(0)
TABLE = planned_figures((Tensor(name="x", datatype="FP32", shape=(-1, 3)),))
IMAGE = planned_figures((Tensor(name="image", datatype="FP32", shape=(-1, 16, 16, 1)),))


def windows(told, rows, each=20):
    return [(summarize_input(told[0], list(part)),) for part in np.split(rows, len(rows) // each)]


def table(rows=1000):
    return RNG.normal((20, 1000, 0), (4, 30, 1), (rows, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x, ""),
        (lambda x: x + np.asarray([10, 0, 0]), "temperature "),
        (lambda x: x * np.asarray([1, 1, 3]), "spread of feature 2 "),
        (lambda x: np.where(RNG.random(x.shape) < [0, 0.9, 0], np.nan, x), "pressure finite in 100 → "),
    ],
)
def test_what_moved_is_named_and_nothing_else(change, words) -> None:
    names = {"x": ("temperature", "pressure")}
    found = moved(windows(TABLE, table()), windows(TABLE, change(table())), TABLE, names)
    assert len(found) == bool(words) and in_words(found).startswith(words)


def test_images_say_brightness() -> None:
    before = RNG.uniform(0.3, 0.6, (100, 16, 16, 1))
    found = moved(windows(IMAGE, before), windows(IMAGE, before * 0.5), IMAGE, {})
    assert {one.name for one in found} == {"brightness", "contrast", "detail"}


def test_windows_are_pooled_as_their_rows_would_be() -> None:
    rows = table(100)
    rows[:7, 1] = np.nan
    parts = [*windows(TABLE, rows[:40]), *windows(TABLE, rows[40:], each=60), (summarize_input(TABLE[0], []),)]
    (found,) = pooled(parts, {"x": TABLE[0]}).values()
    assert found[:, 0] == pytest.approx(np.nanmean(rows, axis=0), rel=1e-5)
    assert found[:, 1] == pytest.approx(np.nanstd(rows, axis=0), rel=1e-3)
    assert found[:, 2] == pytest.approx([1.0, 0.93, 1.0])


def test_without_windows_nothing_is_named() -> None:
    assert moved([], windows(TABLE, table()), TABLE, {}) == []
