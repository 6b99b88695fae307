"""The amount of work of a test: the small size in `make test`, the full one in `make test-full`
(EDGELOOP_SIZE=full).
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

FULL = os.environ.get("EDGELOOP_SIZE") == "full"
MORE_EXAMPLES = 20  # times as many in the full size


def sized(small: T, full: T) -> T:
    """`full` in the full size, else `small`."""
    return full if FULL else small


def examples(small: int) -> int:
    """The number of examples that a property is tried on."""
    return sized(small, MORE_EXAMPLES * small)
