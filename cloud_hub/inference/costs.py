"""How long a model takes for so much input, as it was measured while it served."""

from __future__ import annotations

from math import inf

FORGET = 0.1  # the share of a faster run in the estimate; a slower one counts at once
GROWTH = 4.0  # what twice the input costs at most where nothing is known: attention grows with the square


class Costs:
    """Seconds of a run by its size, the number of input elements, in steps of powers of two."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def add(self, size: int, seconds: float) -> None:
        """One run was measured."""
        step = size.bit_length()
        before = self._seconds.get(step)
        slower = before is None or seconds >= before
        self._seconds[step] = seconds if slower else before + FORGET * (seconds - before)  # type: ignore[operator]

    def estimate(self, size: int) -> float:
        """Seconds that a run may take; infinite while none was measured."""
        step = size.bit_length()
        found = self._seconds.get(step)
        if found is not None:
            return found
        smaller = max((known for known in self._seconds if known < step), default=None)
        if smaller is not None:
            return self._seconds[smaller] * GROWTH ** (step - smaller)
        return min(self._seconds.values(), default=inf)
