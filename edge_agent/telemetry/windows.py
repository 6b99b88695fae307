"""Aggregates what one model did between two moments into a `telemetry.Window`. Pure.

A window belongs to one (release, variant, auditor); a change of any closes it. Audits come back
later than their requests and count in the window of the release that answered, which is opened
again for them when it has closed. Sketch and input summaries cover a uniform random draw of the
window's rows (reservoir sampling: Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985, algorithm R).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from edge_agent.telemetry.shadowed import ShadowTally
from edge_agent.telemetry.values import Values
from fleet.protocol.channel import RolloutRef
from fleet.protocol.drift_encoder import Encoder, encodable_rows
from fleet.protocol.figures import MOST_FIGURES, MOST_INPUTS, planned_figures, summarize_input
from fleet.protocol.sketch import Sketcher, outlying
from fleet.protocol.telemetry import DRAWN_ROWS, InputSummary, PairCounts, SketchData, Window
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import AnyArray

Row = dict[str, np.ndarray[Any, Any]]  # one row of every input, without its batch axis

LATENCY_BUCKETS = 32  # powers of two of microseconds: the last one is over an hour
CONFIDENCE_BINS = 20
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
    """The subject of a window."""

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
        self._tensors: tuple[Tensor, ...] = ()
        self._reservoir: list[Row] = []
        self._size = DRAWN_ROWS  # rows that the reservoir may hold: fewer when they turn out to be large
        self._bytes = 0  # of its rows
        self._rows = 0.0  # seen, in units of `_weight`
        self._weight = 1.0
        self._refusals: dict[str, int] = {}
        self._broken: dict[str, Counter[int]] = {}
        self._values = Values()
        self._pairs: dict[
            bytes, int
        ] = {}  # by the input's key: 0 both right, 1 only the old, 2 only the new, 3 neither
        self._repeats = 0
        self._shadow: ShadowTally | None = None

    def request(self, latency_s: float, marks: Iterable[str]) -> None:
        """Count one request; `marks` are counters to raise besides `requests`."""
        us, counters = int(latency_s * 1e6), self.counters
        counters["requests"] += 1
        counters["latency_us_sum"] += us
        place = us.bit_length() - 1 if us > 1 else 0
        self._latency[place if place < LATENCY_BUCKETS else -1] += 1
        for mark in marks:
            counters[mark] += 1

    def refusal(self, word: str, tensor: str = "", place: int = -1) -> None:
        """Say why the request that was just counted was refused; `tensor` and `place` as in `RefusalError`."""
        self._refusals[word] = self._refusals.get(word, 0) + 1
        if tensor and (tensor in self._broken or len(self._broken) < MOST_INPUTS):
            self._broken.setdefault(tensor, Counter())[place if place < MOST_FIGURES else -1] += 1

    def scores(
        self, confidences: Iterable[float], classes: Iterable[int], values: Iterable[Sequence[float]] = ()
    ) -> None:
        """Count the rows of an answer; `values` are the numbers of each, where they are what windows summarise."""
        if values != ():
            self._values.add(values)
        for value in confidences:
            place = int(value * CONFIDENCE_BINS)
            self._confidence[place if 0 <= place < CONFIDENCE_BINS else 0 if place < 0 else -1] += 1
        for index in classes:
            if 0 <= index < len(self._classes):
                self._classes[index] += 1

    def watch(self, tensors: tuple[Tensor, ...], encoder: Encoder | None) -> None:
        """Sketch and summarise inputs from now on: a window that an audit opened has neither yet."""
        self._tensors = tensors
        if self._encoder is None:
            self._encoder = encoder

    def draw(self, inputs: Mapping[str, AnyArray], rng: Callable[[], float], weight: float = 1.0) -> None:
        """Offer the rows of all inputs to the reservoir; kept rows are copied.

        Args:
            inputs: by name, (n, …) each; one row of an input that has no batch goes with all rows of the others.
            weight: how many of the window's rows each of these stands for, at least 1. All kept rows stand for
                equally many: those that stand for fewer are thinned, so that the draw stays uniform.
        """
        if weight > self._weight:
            self._weigh(weight, rng)
        for place in range(max(map(len, inputs.values()), default=0)):
            if weight < self._weight and rng() * self._weight >= weight:
                continue
            self._rows += 1
            if len(self._reservoir) < self._size:
                self._keep(len(self._reservoir), _row(inputs, place), rng)
            else:
                kept = int(rng() * self._rows)
                if kept < self._size:
                    self._keep(kept, _row(inputs, place), rng)

    def _keep(self, place: int, row: Row, rng: Callable[[], float]) -> None:
        """Put a row into the reservoir. Texts and frames differ in size: where they come to too many bytes, any of them
        go, and no more are held from then on."""
        replaced = self._reservoir[place : place + 1]
        self._reservoir[place : place + 1] = [row]
        self._bytes += _bytes(row) - sum(map(_bytes, replaced))
        while self._bytes > RESERVOIR_BYTES and len(self._reservoir) > 1:
            self._drop(rng)
            self._size = len(self._reservoir)

    def _drop(self, rng: Callable[[], float]) -> None:
        """Let any row go."""
        place = int(rng() * len(self._reservoir))
        self._bytes -= _bytes(self._reservoir[place])
        self._reservoir[place] = self._reservoir[-1]
        self._reservoir.pop()

    def _weigh(self, weight: float, rng: Callable[[], float]) -> None:
        """Let every kept row stand for `weight` rows. A uniform draw stays one with whatever rows it has; only it
        must not hold more than there are of that weight."""
        units = self._rows * self._weight / weight
        most = int(units) + (rng() < units % 1.0)
        while len(self._reservoir) > most:
            self._drop(rng)
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

    def shadow(self, rollout: RolloutRef) -> ShadowTally:
        """Return the tally of the rollout's release on this window's requests; another attempt begins anew."""
        if self._shadow is None or pair_key(self._shadow.rollout) != pair_key(rollout):
            self._shadow = ShadowTally(rollout)
        return self._shadow

    @property
    def empty(self) -> bool:
        """Nothing to tell."""
        shadowed = self._shadow is not None and not self._shadow.empty
        return not self.counters["requests"] and not self.counters["audited"] and not shadowed

    def close(self, ended_at: float) -> Window:
        """The window; costs sketch and figures of at most `DRAWN_ROWS` rows, so do it off the request path."""
        sketch, far = self._sketch()
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
            sketch=sketch,
            outlying=far,
            inputs=self._inputs(),
            refusals=self._refusals,
            rollout=self.key.rollout[0] if self.key.rollout is not None else "",
            attempt=self.key.rollout[1] if self.key.rollout is not None else 0,
            values=self._values.data(),
            shadow=self._shadow.data() if self._shadow is not None else None,
        )

    def _pair_counts(self) -> PairCounts | None:
        if self.key.rollout is None or not self._pairs:
            return None
        rollout, attempt, old, new = self.key.rollout
        found = [[key for key, outcome in self._pairs.items() if outcome == number] for number in range(4)]
        both, only_old, only_new, neither = map(len, found)
        return PairCounts(
            rollout=rollout,
            attempt=attempt,
            old=old,
            new=new,
            both=both,
            only_old=only_old,
            only_new=only_new,
            neither=neither,
            repeats=self._repeats,
            keys=b"".join(key for keys in found for key in keys),
        )

    def _sketch(self) -> tuple[SketchData | None, int]:
        """The sketch of the drawn rows, and how many of them are outlying; None and -1 without an encoder."""
        if self._encoder is None:
            return None, -1
        tensor, encoder = self._encoder.tensor, self._encoder
        watched = (row.get(tensor) if tensor else next(iter(row.values())) for row in self._reservoir)
        rows = encodable_rows(encoder, (row for row in watched if row is not None))
        if not len(rows):
            return None, -1
        sketcher = Sketcher(encoder)
        sketcher.add(rows)
        return sketcher.data(), min(int(outlying(encoder, rows).sum()), sketcher.count)

    def _inputs(self) -> tuple[InputSummary, ...]:
        found = []
        for told in planned_figures(self._tensors):
            rows = [row[told.tensor] for row in self._reservoir if told.tensor in row]
            places = self._broken.get(told.tensor, Counter())
            values = told.kind == "values"
            refused: Counter[str] = Counter()
            for place, count in places.items():
                refused[str(place) if values and place >= 0 else ""] += count
            if rows or refused:
                found.append(summarize_input(told, rows, refused))
        return tuple(found)


class Windows:
    """The open windows of all models; closing hands out builders, so the caller picks where to sum up."""

    def __init__(self, rng: Callable[[], float]) -> None:
        self._rng = rng
        self._open: dict[Key, Builder] = {}
        self._current: dict[str, Key] = {}

    def open(
        self, key: Key, now: float, classes: int, encoder: Encoder | None, tensors: tuple[Tensor, ...] = ()
    ) -> tuple[Builder, list[Builder]]:
        """Return the builder for `key`, and those that it replaces (an older release or auditor of the model)."""
        closed = []
        current = self._current.get(key.model)
        if current != key:
            if current is not None and current in self._open:
                closed.append(self._open.pop(current))
            self._current[key.model] = key
        builder = self._open.get(key)
        if builder is None:
            builder = self._open[key] = Builder(key, now, classes, encoder)
        builder.watch(tensors, encoder)
        return builder, closed

    def late(self, key: Key, now: float, classes: int) -> Builder:
        """Return the builder for an audit of `key`, without making it the model's current one."""
        builder = self._open.get(key)
        if builder is None:
            builder = self._open[key] = Builder(key, now, classes, None)
        return builder

    def draw(self, builder: Builder, inputs: Mapping[str, AnyArray], weight: float = 1.0) -> None:
        """Offer rows to a builder's reservoir with this object's randomness; see `Builder.draw`."""
        builder.draw(inputs, self._rng, weight)

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


def _row(inputs: Mapping[str, AnyArray], place: int) -> Row:
    return {name: np.array(array[place if len(array) > place else 0]) for name, array in inputs.items() if len(array)}


def _bytes(row: Row) -> int:
    """Count the bytes of a row, those of texts in an array of objects included."""
    texts = (array.ravel().tolist() for array in row.values() if array.dtype.kind == "O")
    return sum(array.nbytes for array in row.values()) + sum(len(text) for found in texts for text in found)


def _used(counts: list[int]) -> int:
    return max((i + 1 for i, count in enumerate(counts) if count), default=0)
