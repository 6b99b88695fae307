"""Recorded inputs: which requests are kept, and the bounded store they wait in for their upload.

Nothing is recorded until the channel enables sampling, or the hub asks for samples (`wanted`). The redaction hook sees
every sample before the disk does, and may change it or refuse it. A sample is deleted when the hub's receipt names it,
when it is older than the retention, or, oldest first, when the store is full.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from edge_agent.ports import Arrays
from edge_agent.telemetry.database import Database
from fleet.protocol.channel import MILLION, Sampling
from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.drift_encoder import Encoder, encodable_rows
from fleet.protocol.messages import SAMPLES_LIMIT, Sample, SampleBatch, SampleReason
from fleet.protocol.sketch import outlying
from fleet.protocol.task import CLASSIFICATION, NO_CLASS
from fleet.protocol.tensors import to_array
from fleet.tasks import Task

log = logging.getLogger(__name__)

Redact = Callable[[Sample], Sample | None]
BATCH_BYTES = 1 << 20


class Draft(NamedTuple):
    """A request that may become a sample. `reason` "outlying" still has to prove it by its input."""

    model: str
    release: int
    variant: str
    at: float
    reason: SampleReason
    inputs: Arrays
    outputs: Arrays
    confidence: float
    prediction: int
    cloud_prediction: int | None


def may_keep(sampling: Sampling, draw: float) -> bool:
    """Return whether `reason_to_keep` keeps any request with this draw: of nearly all the rest need not be known."""
    return sampling.enabled and draw * MILLION < sampling.random_ppm + sampling.uncertain_ppm


def reason_to_keep(sampling: Sampling, draw: float, *, uncertain: bool, disagreeing: bool) -> SampleReason | None:
    """The reason to keep a request, or None.

    Args:
        draw: uniform in [0, 1), one per request. The random share comes first, so that it stays a
            uniform draw over all requests; the others share the part above it.
    """
    if not may_keep(sampling, draw):
        return None
    if draw * MILLION < sampling.random_ppm:
        return "random"
    if disagreeing:
        return "disagreeing"
    return "uncertain" if uncertain else "outlying"


def class_of(task: Task[Any], answer: object) -> int:
    """The class of a classification's answer; `NO_CLASS` of any other task, whose outputs say it all."""
    return next(iter(task.classes(answer)), NO_CLASS) if task.name == CLASSIFICATION else NO_CLASS


def is_outlying(inputs: Arrays, encoder: Encoder | None) -> bool:
    """Return whether the first row lies far from the training data in the encoder's whitened space."""
    if encoder is None:
        return False
    array = inputs.get(encoder.tensor) if encoder.tensor else next(iter(inputs.values()), None)
    rows = encodable_rows(encoder, () if array is None else array[:1])
    return bool(len(rows)) and bool(outlying(encoder, rows)[0])


def make_sample(draft: Draft) -> Sample:
    """The sample of a draft, with an id that sorts by time and is unique for ever."""
    return Sample(
        id=f"{int(draft.at * 1000):012x}{secrets.token_hex(10)}",
        model=draft.model,
        release=draft.release,
        variant=draft.variant,
        at=draft.at,
        reason=draft.reason,
        inputs=tuple(to_array(name, array) for name, array in draft.inputs.items()),
        outputs=tuple(to_array(name, array) for name, array in draft.outputs.items()),
        confidence=draft.confidence,
        prediction=draft.prediction,
        cloud_prediction=draft.cloud_prediction,
    )


class SampleStore:
    """Samples on disk; all calls come from worker threads."""

    def __init__(self, database: Database, redact: Redact | None = None) -> None:
        self._database = database
        self._redact = redact
        self.dropped = 0

    @property
    def redacts(self) -> bool:
        """True if a hook sees each sample before the disk does."""
        return self._redact is not None

    def put(self, samples: list[Sample], *, max_bytes: int) -> int:
        """Redact and store; returns how many were stored. The oldest give way to `max_bytes`."""
        rows = []
        for sample in samples:
            kept = self._redact(sample) if self._redact is not None else sample
            if kept is None:
                continue
            body = encode_msgpack(kept)
            if len(body) > SAMPLES_LIMIT // 2:
                self.dropped += 1
                log.warning("a sample of model %s has %d bytes and is not kept", kept.model, len(body))
                continue
            rows.append((kept.id, kept.at, kept.model, body))
        if not rows:
            return 0
        with self._database.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO samples VALUES (?, ?, ?, ?)", rows)
            size = int(connection.execute("SELECT TOTAL(LENGTH(body)) FROM samples").fetchone()[0])
            while size > max_bytes:
                ident, length = connection.execute(
                    "SELECT id, LENGTH(body) FROM samples ORDER BY at, id LIMIT 1"
                ).fetchone()
                connection.execute("DELETE FROM samples WHERE id = ?", (ident,))
                size -= int(length)
                self.dropped += 1
        return len(rows)

    def batch(self, limit: int = BATCH_BYTES) -> tuple[list[str], bytes]:
        """The oldest samples that fit `limit` bytes (at least one), as an encoded batch; empty ids when none."""
        ids: list[str] = []
        samples: list[Sample] = []
        size = 0
        for ident, body in self._database.rows("SELECT id, body FROM samples ORDER BY at, id LIMIT 500"):
            assert isinstance(body, bytes)
            if ids and size + len(body) > limit:
                break
            ids.append(str(ident))
            samples.append(decode_msgpack(body, Sample, limit=SAMPLES_LIMIT))
            size += len(body)
        return ids, encode_msgpack(SampleBatch(samples=tuple(samples))) if ids else b""

    def delete(self, ids: tuple[str, ...]) -> None:
        """Forget samples that the hub has."""
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM samples WHERE id = ?", [(ident,) for ident in ids])

    def expire(self, before: float) -> None:
        """Forget samples recorded before a time."""
        if self._database.rows("SELECT 1 FROM samples WHERE at < ? LIMIT 1", (before,)):
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM samples WHERE at < ?", (before,))

    def __len__(self) -> int:
        return int(str(self._database.rows("SELECT COUNT(*) FROM samples")[0][0]))


def without_inputs(sample: Sample) -> Sample:
    """A ready-made redaction: keep the outputs only."""
    return msgspec.structs.replace(sample, inputs=())
