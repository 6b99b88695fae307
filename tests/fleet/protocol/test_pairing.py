"""Keys of paired inputs: equal for what is equal, different for what is not, and of one rollout only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fleet.protocol.channel import RolloutRef
from fleet.protocol.pairing import KEY_BYTES, input_keys

ROLLOUT = RolloutRef(id="r-1", attempt=1, release=2, from_release=1, share_ppm=1, salt="s")
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def key(rollout: RolloutRef = ROLLOUT, **inputs: Any) -> bytes:
    (found,) = input_keys(rollout, inputs, 1, ())
    return found


def test_each_row_has_the_key_that_it_has_alone() -> None:
    whole = np.float32(7)  # belongs to every row
    both = input_keys(ROLLOUT, {"x": X, "y": X[:, :1], "z": whole}, 2, {"x", "y"})
    assert [len(found) for found in both] == [KEY_BYTES] * 2 and both[0] != both[1]
    for row in range(2):
        one = {"z": whole, "y": X[row : row + 1, :1], "x": X[row : row + 1]}
        assert input_keys(ROLLOUT, one, 1, {"x", "y"}) == both[row : row + 1]


def test_an_input_that_counts_no_rows_may_be_shorter_than_the_batch() -> None:
    rows = np.arange(5, dtype=np.float32)[:, None]
    found = input_keys(ROLLOUT, {"x": rows, "scale": np.ones(3, np.float32)}, 5, {"x"})
    assert len(set(found)) == 5


@pytest.mark.parametrize(
    "other",
    [
        {"x": X + 1},
        {"y": X},
        {"x": X.astype(np.float64)},
        {"x": X.reshape(3, 2)},
        {"x": X, "y": X},
        {"x": np.array(["a", "bc"], object)},
        {"x": np.array(["ab", "c"], object)},
    ],
    ids=str,
)
def test_what_differs_has_another_key(other: dict[str, Any]) -> None:
    assert key(**other) != key(x=X) and key(**other) == key(**other)


def test_texts_are_not_run_together_and_bytes_are_their_text() -> None:
    assert key(x=np.array(["a", "bc"], object)) != key(x=np.array(["ab", "c"], object))
    assert key(x=np.array(["ä"], object)) == key(x=np.array(["ä".encode()], object))


def test_no_input_is_linked_across_rollouts() -> None:
    others = [replace(ROLLOUT, id="r-2"), replace(ROLLOUT, attempt=2), replace(ROLLOUT, salt="t")]
    assert len({key(x=X), *(key(other, x=X) for other in others)}) == 4
