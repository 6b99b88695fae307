"""How long a run will take, by what runs of about the same size took: no mean over sizes, which would say of a large
request what small ones cost.

Sizes are values in all inputs together, in classes of powers of two. An estimate that is too low stalls others, so a
class costs what its slowest run of late did; but one run among several that a busy machine interrupted says nothing.
"""

from __future__ import annotations

from collections import deque

RECENT = 5  # runs of a class; the slowest of them counts only while there are fewer than three


class Costs:
    """Of one model; seconds. `learn` may be called from any thread."""

    def __init__(self) -> None:
        self._runs: dict[int, deque[float]] = {}
        self._known: dict[int, float] = {}

    def learn(self, values: int, took: float) -> None:
        """A run of so many values took so long."""
        size = values.bit_length()
        runs = self._runs.setdefault(size, deque(maxlen=RECENT))
        runs.append(took)
        self._known[size] = sorted(runs)[-2 if len(runs) > 2 else -1]

    def of(self, values: int) -> float:
        """What a run of so many values may take: as its class has it; else in proportion to the nearest smaller one,
        but at least as much as that and no more than the nearest larger one; 0 before the first run."""
        size = values.bit_length()
        known = self._known.get(size)
        if known is not None:
            return known
        sizes = list(self._known)
        smaller = max((other for other in sizes if other < size), default=None)
        larger = min((other for other in sizes if other > size), default=None)
        most = self._known[larger] if larger is not None else None
        if smaller is None:
            return most or 0.0
        least = self._known[smaller]
        scaled = least * 2.0 ** (size - smaller)
        return scaled if most is None else max(least, min(scaled, most))
