"""An estimate of how long a run of a model will take, by runs of about the same size.

A mean over all sizes would charge a large request what small ones cost. Sizes are values in all inputs together, in
classes of powers of two. An estimate that is too low stalls others on the event loop, so a class costs what its slowest
recent run did.
"""

from __future__ import annotations

from collections import deque

RECENT = 5  # runs of a class


class RunCosts:
    """Of one model; seconds. `learn` may be called from any thread.

    Args:
        unknown_s: what a run costs before the first one.
        growth: what twice the input costs, where only less of it was run: 2 where rows cost alike; 4 where
            one of them may grow in itself, as attention does with the square of its length.
        interrupted: how many of the last runs say nothing, once there are more than twice as many: a machine that is
            busy with something else interrupts one among several.
    """

    def __init__(self, *, unknown_s: float, growth: float, interrupted: int) -> None:
        self._unknown_s, self._growth, self._interrupted = unknown_s, growth, interrupted
        self._runs: dict[int, deque[float]] = {}
        self._known: dict[int, float] = {}

    def learn(self, values: int, took: float) -> None:
        """A run of so many values took so long."""
        size = values.bit_length()
        runs = self._runs.get(size)
        if runs is None:
            runs = self._runs[size] = deque(maxlen=RECENT)
        runs.append(took)
        left_out = self._interrupted if len(runs) > 2 * self._interrupted else 0
        self._known[size] = sorted(runs)[-1 - left_out]

    def of(self, values: int) -> float:
        """Estimate the seconds that a run of so many values may take.

        The class of that size says it; else it grows by `growth` from the nearest smaller one, to no less than that and
        no more than the nearest larger one. Before the first run it is `unknown_s`.
        """
        size = values.bit_length()
        known = self._known.get(size)
        if known is not None:
            return known
        sizes = list(self._known)  # another thread may add one meanwhile
        smaller = max((other for other in sizes if other < size), default=None)
        larger = min((other for other in sizes if other > size), default=None)
        most = self._known[larger] if larger is not None else None
        if smaller is None:
            return self._unknown_s if most is None else most
        least = self._known[smaller]
        scaled = least * self._growth ** (size - smaller)
        return scaled if most is None else max(least, min(scaled, most))
