"""The share of the processor that a shadow may take: after each piece of work a pause that pays for it."""

from __future__ import annotations


class CoreShare:
    """Keeps what is spent at or under a share of one core, from one piece of work to the next. Pure.

    Nothing is saved up: an idle hour buys no burst, which a request beside it would feel.
    """

    def __init__(self) -> None:
        self._until = float("-inf")

    def spent(self, cpu_s: float, share: float, began: float) -> None:
        """Work that began at `began` (monotonic seconds) took `cpu_s` of the processor, of which `share` is allowed."""
        self._until = max(self._until, began) + max(0.0, cpu_s) / share

    def wait_s(self, now: float) -> float:
        """Seconds until the next piece may begin; 0 when it may now."""
        return max(0.0, self._until - now)
