"""The number of calls to the cloud that a model may make, and the bytes that it may spend on them: token buckets, pure.

A bucket holds one second of calls, and one day of bytes, and fills evenly. It is full when the agent starts; the
device's own byte budget, which outlives a restart, counts these bytes, too.
"""

from __future__ import annotations

from fleet.protocol.channel import Routing
from fleet.protocol.durations import DAY_S


class CallBudget:
    """By model. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[float, float]] = {}
        self._bytes: dict[str, tuple[float, float]] = {}

    def allows(self, model: str, routing: Routing, now: float) -> bool:
        """Tell whether a call may be made now. Its bytes are known afterwards, so the day's last one may exceed
        them."""
        rate, day = routing.calls_per_s, float(routing.calls_bytes_per_day)
        if rate and _level(self._calls, model, rate, max(1.0, rate), now) < 1.0:
            return False
        return not day or _level(self._bytes, model, day / DAY_S, day, now) > 0.0

    def called(self, model: str, routing: Routing, now: float) -> None:
        """Count a call that begins."""
        rate = routing.calls_per_s
        if rate:
            self._calls[model] = _level(self._calls, model, rate, max(1.0, rate), now) - 1.0, now

    def spent(self, model: str, routing: Routing, size: int, now: float) -> None:
        """Count the bytes of a call that went and came."""
        day = float(routing.calls_bytes_per_day)
        if day:
            self._bytes[model] = _level(self._bytes, model, day / DAY_S, day, now) - size, now


def _level(levels: dict[str, tuple[float, float]], model: str, rate: float, most: float, now: float) -> float:
    level, at = levels.get(model, (most, now))
    return min(most, level + max(0.0, now - at) * rate)
