from __future__ import annotations

import numpy as np
import pytest

from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.top_classes import top_classes

NAMES = ("ant", "bee", "Käfer")


def test_the_best_come_first_and_of_equal_ones_the_lower_number() -> None:
    found = top_classes(np.array([[0.5, 2.0, 0.5], [1.0, 1.0, -3.0]], np.float32), 2, NAMES, "y")
    assert found.tolist() == [[b"2.000000:1:bee", b"0.500000:0:ant"], [b"1.000000:0:ant", b"1.000000:1:bee"]]


def test_more_than_there_are_is_all_and_a_class_without_a_name_has_its_number() -> None:
    found = top_classes(np.array([3, 250, 7, 9], np.uint8), 10, NAMES, "y")
    assert [item.decode() for item in found] == ["250.000000:1:bee", "9.000000:3", "7.000000:2:Käfer", "3.000000:0:ant"]


def test_nan_comes_last_and_no_row_is_no_text() -> None:
    assert top_classes(np.array([np.nan, 1.0]), 2, (), "y").tolist() == [b"1.000000:1", b"nan:0"]
    assert top_classes(np.zeros((0, 3)), 2, NAMES, "y").shape == (0, 2)


def test_what_has_no_scores_and_what_is_too_much_is_refused() -> None:
    for scores in (np.array(1.0), np.array([b"a"], object), np.array([True])):
        with pytest.raises(MalformedError, match="no scores"):
            top_classes(scores, 1, (), "y")
    with pytest.raises(TooLargeError):
        top_classes(np.zeros((1000, 200)), 200, (), "y")
