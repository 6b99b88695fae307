"""How long a run will take, by what runs of about the same size took: no mean over sizes, which would say of a large
request what small ones cost.

Sizes are values in all inputs together, in classes of powers of two. A class rises at once and falls over some ten
runs, since an estimate that is too low stalls others, and one that is too high costs a thread.
"""

from __future__ import annotations

FALL = 0.1


class Costs:
    """Of one model; seconds."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}

    def learn(self, values: int, took: float) -> None:
        """A run of so many values took so long."""
        size = values.bit_length()
        known = self._known.get(size, 0.0)
        self._known[size] = took if took >= known else known + FALL * (took - known)

    def of(self, values: int) -> float:
        """What a run of so many values may take: as the class has it, else in proportion to the nearest smaller one.

        A class that nobody has measured costs at least what the next smaller known one does, and no more than the
        next larger; 0 before the first run.
        """
        size = values.bit_length()
        known = self._known.get(size)
        if known is not None:
            return known
        smaller = max((other for other in self._known if other < size), default=None)
        larger = min((other for other in self._known if other > size), default=None)
        above = self._known[larger] if larger is not None else float("inf")
        if smaller is None:
            return above if larger is not None else 0.0
        return max(self._known[smaller], min(self._known[smaller] * 2.0 ** (size - smaller), above))
