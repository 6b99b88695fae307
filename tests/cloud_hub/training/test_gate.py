"""The teacher gate: chance passes, a teacher that is clearly worse does not."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_hub.training.gate import compare


def right(lost: int, won: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    old = [True] * lost + [False] * won + [True] * both
    new = [False] * lost + [True] * won + [True] * both
    return np.array(old), np.array(new)


@pytest.mark.parametrize(
    ("lost", "won", "chance", "refused"),
    [
        (0, 0, 1.0, False),
        (1, 0, 0.5, False),
        (3, 0, 0.125, False),
        (4, 0, 0.0625, True),
        (6, 3, 130 / 512, False),
        (20, 5, 0.002, True),
        (0, 9, 1.0, False),
    ],
)
def test_exact_probabilities(lost: int, won: int, chance: float, refused: bool) -> None:
    found = compare(*right(lost, won, both=40))
    assert found.chance == pytest.approx(chance, abs=2e-4)
    assert found.refused is refused
    assert (found.lost, found.won, found.labels) == (lost, won, 40 + lost + won)
    assert found.old - found.new == pytest.approx((lost - won) / found.labels)
