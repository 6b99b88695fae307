"""A release's profile of its training data, and the names of its features."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.protocol.figures import MEAN, decode_profile, figures_of
from fleet.protocol.manifest import Tensor
from model_compiler.errors import CompilerError, DataError
from model_compiler.option_values import features_of
from model_compiler.package.drift_reference import PROFILE_ROWS, profile

TABLE = Tensor(name="x", datatype="FP32", shape=(-1, 2))
TEXT = Tensor(name="note", datatype="BYTES", shape=(-1,))
IMAGE = Tensor(name="image", datatype="FP32", shape=(-1, 32, 32, 3))
ROWS = np.arange(40, dtype=np.float32).reshape(20, 2)


def test_features_are_called_by_input_or_by_the_only_one() -> None:
    for names in ({"x": ("a", "b")}, {"": ("a", "b")}):
        found = decode_profile(profile({"x": ROWS}, (TABLE,), names))
        assert found.names == {"x": ("a", "b")} and found.inputs[0].rows == 20


@pytest.mark.parametrize("names", [{"y": ("a", "b")}, {"x": ("a",)}, {"image": ("a", "b", "c")}, {"": ("a", "b")}])
def test_names_that_fit_no_input_are_refused(names) -> None:
    images = np.zeros((20, 32, 32, 3), np.float32)
    with pytest.raises(DataError):
        profile({"x": ROWS, "image": images}, (TABLE, IMAGE), names)


def test_text_and_many_rows_are_bounded() -> None:
    texts = np.asarray([b"ab", b""] * 10, object)
    many = np.ones((3 * PROFILE_ROWS, 2), np.float32)
    text, table = decode_profile(profile({"note": texts, "x": many}, (TEXT, TABLE), {})).inputs
    assert figures_of(text)[0, MEAN] == 1.0 and table.rows == PROFILE_ROWS


def test_the_option_reads_names_by_input() -> None:
    assert features_of(["a, b", "x=c,d"]) == {"": ("a", "b"), "x": ("c", "d")}
    with pytest.raises(CompilerError, match="empty"):
        features_of(["a,,b"])
