"""The numbers in answers, summarised value by value: what a window tells of a model whose answers are no classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fleet.protocol.quantiles import merge, summarize_numbers
from fleet.protocol.telemetry import VALUES, QuantileData

WAITING = 4096  # numbers that are summarised together; most windows end with fewer, off the request path


class Values:
    """Gathers in one window a summary for each of an answer's first `VALUES` numbers."""

    def __init__(self) -> None:
        self._waiting: list[list[float]] = []
        self._summed: list[QuantileData] = []

    def add(self, answers: Iterable[Sequence[float]]) -> None:
        """Count answers, each with its numbers in their order."""
        for answer in answers:
            for place, value in enumerate(answer[:VALUES]):
                if place == len(self._waiting):
                    self._waiting.append([])
                    self._summed.append(summarize_numbers(()))
                self._waiting[place].append(value)
                if len(self._waiting[place]) == WAITING:
                    self._sum(place)

    def data(self) -> tuple[QuantileData, ...]:
        """The summaries; one is empty where no number was finite."""
        for place in range(len(self._waiting)):
            self._sum(place)
        return tuple(self._summed)

    def _sum(self, place: int) -> None:
        if self._waiting[place]:
            self._summed[place] = merge((self._summed[place], summarize_numbers(self._waiting[place])))
            self._waiting[place].clear()
