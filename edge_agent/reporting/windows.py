"""What one model did between two moments: pure aggregation into `messages.Window`.

A window belongs to one (release, variant, auditor); a change of any closes it. Audits come back
later than their requests and count in the window of the release that answered, which is opened
again for them when it has closed. The sketch covers a uniform random draw of the window's rows
(reservoir sampling: Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985, algorithm R).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from edge_agent.reporting.values import Values
from fleet.protocol.channel import RolloutRef
from fleet.protocol.messages import PairCounts, SketchData, Window
from fleet.protocol.sketch import Encoder, Sketcher

LATENCY_BUCKETS = 32  # powers of two of microseconds: the last one is over an hour
CONFIDENCE_BINS = 20
RESERVOIR_ROWS = 256
RESERVOIR_BYTES = 8 << 20
PAIRED_INPUTS = 512  # distinct ones of one window; more count as repeats
COUNTERS = (
    "requests",
    "edge",
    "cloud",
    "degraded",
    "deferred",
    "failed",
    "audited",
    "audit_agree",
    "latency_us_sum",
    "local",  # of requests: asked in an application's own process
    "local_failed",  # of requests: the device's own model failed, whether or not the cloud answered
    "refused",  # of failed: the release does not take them
    "newly_refused",  # of refused: the release before would have taken them
    "ready",  # of requests: sent as the release's steps make them, so no sketch, sample or audit has seen them
)


class Key(NamedTuple):
    """What a window is about."""

    model: str
    release: int
    variant: str
    auditor: int | None
    rollout: tuple[str, int, int, int] | None = None  # id, attempt, from, to: paired evidence is per attempt


def pair_key(rollout: RolloutRef | None) -> tuple[str, int, int, int] | None:
    """A key's `rollout`."""
    if rollout is None:
        return None
    return rollout.id, rollout.attempt, rollout.from_release, rollout.release


class Builder:
    """One open window."""

    def __init__(self, key: Key, started_at: float, classes: int, encoder: Encoder | None) -> None:
        self.key = key
        self.started_at = started_at
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._latency = [0] * LATENCY_BUCKETS
        self._confidence = [0] * CONFIDENCE_BINS
        self._classes = [0] * classes
        self._encoder = encoder
        self._reservoir: list[np.ndarray[Any, Any]] = []
        self._rows = 0.0  # seen, in units of `_weight`
        self._weight = 1.0
        self._refusals: dict[str, int] = {}
        self._values = Values()
        self._pairs: dict[
            bytes, int
        ] = {}  # by the input's key: 0 both right, 1 only the old, 2 only the new, 3 neither
        self._repeats = 0

    def request(self, latency_s: float, marks: Iterable[str]) -> None:
        """Count one request; `marks` are counters to raise besides `requests`."""
        us = int(latency_s * 1e6)
        self.counters["requests"] += 1
        self.counters["latency_us_sum"] += us
        self._latency[min(max(us, 1).bit_length() - 1, LATENCY_BUCKETS - 1)] += 1
        for mark in marks:
            self.counters[mark] += 1

    def refusal(self, word: str) -> None:
        """Say why the request that was just counted was refused."""
        self._refusals[word] = self._refusals.get(word, 0) + 1

    def scores(
        self, confidences: Iterable[float], classes: Iterable[int], values: Iterable[Sequence[float]] = ()
    ) -> None:
        """Count the rows of an answer; `values` are the numbers of each, where they are what windows summarise."""
        self._values.add(values)
        for value in confidences:
            self._confidence[min(max(int(value * CONFIDENCE_BINS), 0), CONFIDENCE_BINS - 1)] += 1
        for index in classes:
            if 0 <= index < len(self._classes):
                self._classes[index] += 1

    def sketch_with(self, encoder: Encoder | None) -> None:
        """Sketch from now on: a window that an audit opened before its first request has no encoder yet."""
        if self._encoder is None:
            self._encoder = encoder

    def draw(self, rows: np.ndarray[Any, Any], rng: Callable[[], float], weight: float = 1.0) -> None:
        """Offer the rows of an input to the reservoir; kept rows are copied.

        Args:
            weight: how many of the window's rows each of these stands for, at least 1. All kept rows stand for
                equally many: those that stand for fewer are thinned, so that the draw stays uniform.
        """
        if self._encoder is None or rows[:1].size != self._encoder.inputs:
            return
        if weight > self._weight:
            self._weigh(weight, rng)
        size = min(RESERVOIR_ROWS, max(1, RESERVOIR_BYTES // max(1, rows[:1].nbytes)))
        for row in rows:
            if weight < self._weight and rng() * self._weight >= weight:
                continue
            self._rows += 1
            if len(self._reservoir) < size:
                self._reservoir.append(np.array(row))
            else:
                place = int(rng() * self._rows)
                if place < size:
                    self._reservoir[place] = np.array(row)

    def _weigh(self, weight: float, rng: Callable[[], float]) -> None:
        """Let every kept row stand for `weight` rows. A uniform draw stays one with whatever rows it has; only it
        must not hold more than there are of that weight."""
        units = self._rows * self._weight / weight
        most = int(units) + (rng() < units % 1.0)
        while len(self._reservoir) > most:
            place = int(rng() * len(self._reservoir))
            self._reservoir[place] = self._reservoir[-1]
            self._reservoir.pop()
        self._rows, self._weight = max(units, float(len(self._reservoir))), weight

    def audited(self, agree: Iterable[bool], pairs: Iterable[tuple[bytes, tuple[bool, bool]]]) -> None:
        """Count audited rows; `pairs` says per row, with its input's key, whether (old, new) were right."""
        for right in agree:
            self.counters["audited"] += 1
            self.counters["audit_agree"] += int(right)
        for key, (old, new) in pairs:
            if key in self._pairs or len(self._pairs) >= PAIRED_INPUTS:
                self._repeats += 1
            else:
                self._pairs[key] = (0 if new else 1) if old else (2 if new else 3)

    @property
    def empty(self) -> bool:
        """Nothing to tell."""
        return not self.counters["requests"] and not self.counters["audited"]

    def close(self, ended_at: float) -> Window:
        """The window; costs a sketch of at most `RESERVOIR_ROWS` rows, so do it off the request path."""
        return Window(
            model=self.key.model,
            release=self.key.release,
            variant=self.key.variant,
            auditor=self.key.auditor,
            started_at=self.started_at,
            ended_at=ended_at,
            counters={name: count for name, count in self.counters.items() if count},
            latency_us=tuple(self._latency[: _used(self._latency)]),
            confidence=tuple(self._confidence),
            classes=tuple(self._classes),
            pairs=self._pair_counts(),
            sketch=self._sketch(),
            refusals=self._refusals,
            rollout=self.key.rollout[0] if self.key.rollout is not None else "",
            attempt=self.key.rollout[1] if self.key.rollout is not None else 0,
            values=self._values.data(),
        )

    def _pair_counts(self) -> PairCounts | None:
        if self.key.rollout is None or not self._pairs:
            return None
        rollout, attempt, old, new = self.key.rollout
        found = [[key for key, outcome in self._pairs.items() if outcome == number] for number in range(4)]
        both, only_old, only_new, neither = map(len, found)
        return PairCounts(
            rollout=rollout, attempt=attempt, old=old, new=new, both=both, only_old=only_old, only_new=only_new,
            neither=neither, repeats=self._repeats, keys=b"".join(key for keys in found for key in keys),
        )  # fmt: skip

    def _sketch(self) -> SketchData | None:
        if self._encoder is None or not self._reservoir:
            return None
        sketcher = Sketcher(self._encoder)
        sketcher.add(np.stack(self._reservoir))
        return sketcher.data()


class Windows:
    """The open windows of all models; closing hands out builders, so the caller picks where to sum up."""

    def __init__(self, rng: Callable[[], float]) -> None:
        self._rng = rng
        self._open: dict[Key, Builder] = {}
        self._current: dict[str, Key] = {}

    def open(self, key: Key, now: float, classes: int, encoder: Encoder | None) -> tuple[Builder, list[Builder]]:
        """The builder for `key`, and those that it replaces (an older release or auditor of the model)."""
        closed = []
        current = self._current.get(key.model)
        if current != key:
            if current is not None and current in self._open:
                closed.append(self._open.pop(current))
            self._current[key.model] = key
        builder = self._open.get(key)
        if builder is None:
            builder = self._open[key] = Builder(key, now, classes, encoder)
        builder.sketch_with(encoder)
        return builder, closed

    def late(self, key: Key, now: float, classes: int) -> Builder:
        """The builder for an audit of `key`, without making it the model's current one."""
        builder = self._open.get(key)
        if builder is None:
            builder = self._open[key] = Builder(key, now, classes, None)
        return builder

    def draw(self, builder: Builder, rows: np.ndarray[Any, Any], weight: float = 1.0) -> None:
        """Offer rows to a builder's reservoir with this object's randomness; see `Builder.draw`."""
        builder.draw(rows, self._rng, weight)

    def due(self, now: float, window_s: float, requests: int) -> list[Builder]:
        """Take out the windows that are full or old; empty ones just start again."""
        closed = []
        for key, builder in list(self._open.items()):
            if builder.counters["requests"] >= requests or now - builder.started_at >= window_s:
                del self._open[key]
                if not builder.empty:
                    closed.append(builder)
        return closed

    def take_all(self) -> list[Builder]:
        """Every window that has something to tell (the agent stops)."""
        closed = [builder for builder in self._open.values() if not builder.empty]
        self._open.clear()
        return closed


def _used(counts: list[int]) -> int:
    return max((i + 1 for i, count in enumerate(counts) if count), default=0)
