"""Lines and tables of a sample's inputs."""

from __future__ import annotations

import numpy as np

from cloud_hub.samples.series import HEIGHT, LINES, POINTS, WIDTH, numbers_of, series_of
from fleet.protocol.tensors import to_array


def points(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]


def test_a_short_line_has_every_value_and_its_least_lies_at_the_bottom() -> None:
    values = np.linspace(-1, 3, 50, dtype=np.float32)[None]
    (found,) = series_of([to_array("x", values)])
    drawn = points(found.lines[0])
    assert (found.low, found.high, found.length, found.more) == (-1.0, 3.0, 50, 0)
    assert len(drawn) == 50 and drawn[0] == (0.0, HEIGHT) and drawn[-1] == (WIDTH, 0.0)


def test_a_long_line_loses_points_and_no_peak() -> None:
    values = np.zeros((1, 100_000), np.float32)
    values[0, 77_777] = 9.0
    (found,) = series_of([to_array("x", values)])
    drawn = points(found.lines[0])
    assert len(drawn) <= 2 * POINTS and min(y for _, y in drawn) == 0.0


def test_channels_are_lines_whichever_axis_they_are_on() -> None:
    table = np.stack([np.sin(np.arange(200) / number) for number in range(1, 8)], axis=1).astype(np.float32)
    for values in (table[None], table.T[None], table):
        (found,) = series_of([to_array("x", values)])
        assert (len(found.lines), found.more, found.length) == (LINES, 1, 200)


def test_what_is_not_finite_is_left_out_and_what_is_no_series_is_none() -> None:
    values = np.ones((1, 40), np.float32)
    values[0, 3:9] = np.nan
    values[0, 9] = np.inf
    (found,) = series_of([to_array("x", values)])
    assert len(points(found.lines[0])) == 33 and (found.low, found.high) == (1.0, 1.0)
    (empty,) = series_of([to_array("x", np.full((1, 5000), np.nan, np.float32))])
    assert empty.lines == [""]
    others = [
        to_array("few", np.ones((1, 4), np.float32)),
        to_array("image", np.ones((1, 32, 32, 3), np.float32)),
        to_array("text", np.array([["a"] * 30], dtype=object)),
    ]
    assert series_of(others) == []
    assert numbers_of(others) == [(f"few {place}", "1") for place in range(1, 5)]


def test_a_single_number_has_the_inputs_name() -> None:
    assert numbers_of([to_array("age", np.array([[41]], np.int64))]) == [("age", "41")]
