"""Reads devices' messages into values that the database takes: every field of each is bounded here. Pure.

An envelope is read in two steps. Its number says where the device's spool stands, and must be known even where
the rest cannot be read, so that the record is numbered off and does not keep the ones behind it waiting.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from msgspec import Struct

from cloud_hub.store import benchmarks
from fleet.protocol.bounds import LARGEST, check_count, check_counts, check_time, check_word, mended, storable
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import MalformedError, VersionError
from fleet.protocol.figures import check_summaries
from fleet.protocol.messages import (
    TELEMETRY_LIMIT,
    VERSION,
    AgentReport,
    Benchmark,
    CommandResult,
    Envelope,
    ModelReport,
    ShadowCounts,
    Status,
    decode_body,
    decode_control,
    decode_envelope,
)
from fleet.protocol.names import check_name
from fleet.protocol.pairing import KEY_BYTES
from fleet.protocol.quantiles import check_quantiles
from fleet.protocol.sketch import check_sketch
from fleet.protocol.telemetry import VALUES, PairCounts, Window
from fleet.protocol.vitals import mended_vitals

log = logging.getLogger(__name__)

MOST_NUMBER = 1 << 62  # of a spool's record: far above what a device can write, far below what overflows
MOST_COUNT = 1 << 50  # requests, or microseconds of them, that one window may count
MOST_PAIRS = 1 << 31  # audited requests in one window
MOST_KEYS = 512  # inputs of pairs in one window, as many as an agent sends
MOST_SKETCHED = 1 << 20  # inputs in one window's sketch; agents draw 256
COUNTERS, BUCKETS, BINS, REASONS = 64, 64, 256, 32  # entries of a window's lists


class Numbered(Struct, frozen=True, kw_only=True):
    """The number of the record in an envelope; see `messages.Envelope`."""

    v: int = VERSION
    device: str
    spool: str
    seq: int
    base: int


class ReadRecord(Struct, frozen=True, kw_only=True):
    """A record that may be kept: `body` is typed, `document` the same as plain values; `figures` are a benchmark's."""

    envelope: Envelope
    body: ModelReport | AgentReport | CommandResult | Window
    document: dict[str, Any]
    figures: Benchmark | None = None


def read_number(data: bytes) -> Numbered:
    """The number of the record in an envelope.

    Raises:
        MalformedError: not an envelope, or a number that no spool reaches.
        VersionError: of a version whose numbers may mean something else.
    """
    number = decode_msgpack(data, Numbered, limit=TELEMETRY_LIMIT, subject="envelope")
    if number.v != VERSION:
        raise VersionError(f"an envelope of version {number.v}, this hub speaks {VERSION}", subject="envelope")
    check_word(number.spool, "spool")
    if not 1 <= number.base <= number.seq <= MOST_NUMBER:
        raise MalformedError(f"envelope number {number.seq} with base {number.base}", subject="envelope")
    return number


def read_record(data: bytes) -> ReadRecord:
    """The whole record of an envelope whose number was read.

    Raises:
        MalformedError: a field is missing, of the wrong type or out of its bounds.
        UnsupportedError: a kind of record that this hub does not know.
    """
    envelope = decode_envelope(data)
    check_time(envelope.at, "at")
    body = decode_body(envelope)
    if isinstance(body, Window):
        _check_window(body)
    elif isinstance(body, ModelReport):
        _check_report(body)
    document = _window_document(body) if isinstance(body, Window) else _document(body, envelope.kind)
    return ReadRecord(envelope=envelope, body=body, document=document, figures=_figures(body))


def read_status(data: bytes) -> Status:
    """A status, without vital signs that no machine can have; MalformedError, VersionError."""
    status: Status = decode_control(data, Status)
    check_word(status.session, "session")
    if status.instance:
        check_word(status.instance, "instance")
    check_time(status.at, "at")
    if status.vitals is None:
        return status
    vitals, bad = mended_vitals(status.vitals)
    if bad:
        log.debug("a heartbeat is kept without %s: no machine can have what it says", ", ".join(bad))
    return msgspec.structs.replace(status, vitals=vitals)


def _window_document(window: Window) -> dict[str, Any]:
    """Make what is kept of it beside its sketch: the inputs of pairs are counted, and not kept with the window.

    There are hundreds of numbers in it, each of which was checked: only one word is left to be mended.
    """
    pairs = msgspec.structs.replace(window.pairs, keys=b"") if window.pairs is not None else None
    shadow = msgspec.structs.replace(window.shadow, keys=b"") if window.shadow is not None else None
    kept = msgspec.structs.replace(window, sketch=None, pairs=pairs, shadow=shadow, variant=mended(window.variant))
    document: dict[str, Any] = msgspec.to_builtins(kept)
    return document


def _document(body: Struct, kind: str) -> dict[str, Any]:
    try:
        built = msgspec.to_builtins(body, str_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedError(f"{kind}: {error}", subject=kind) from error
    document: dict[str, Any] = storable(built, kind)
    return document


def _check_report(report: ModelReport) -> None:
    check_name(report.model, "model")
    for name in ("target", "active", "previous", "attempt", "channel_version"):
        check_count(getattr(report, name) or 0, name)
    if not 0.0 <= report.progress <= 1.0:
        raise MalformedError(f"progress: {report.progress} is not from 0 to 1", subject="progress")


def _check_window(window: Window) -> None:
    check_name(window.model, "model")
    for name in ("release", "auditor"):
        check_count(getattr(window, name) or 0, name)
    for name in ("started_at", "ended_at"):
        check_time(getattr(window, name), name)
    for name, most in (("counters", COUNTERS), ("latency_us", BUCKETS), ("confidence", BINS)):
        check_count(len(getattr(window, name)), f"entries of {name}", most)
    for name, count in window.counters.items():
        check_count(count, check_word(name, "counter"), MOST_COUNT)
    for counts in (window.latency_us, window.confidence, window.classes):
        check_counts(counts, "a window's count", MOST_COUNT)
    check_count(len(window.refusals), "entries of refusals", REASONS)
    for word, count in window.refusals.items():
        check_count(count, check_word(word, "refusal"), MOST_COUNT)
    check_count(len(window.values), "summarised values", VALUES)
    for summary in window.values:
        check_quantiles(summary)
    _check_inputs(window)
    if window.rollout:
        check_word(window.rollout, "rollout")
    check_count(window.attempt, "attempt")
    if window.pairs is not None:
        _check_pairs(window.pairs)
    if window.shadow is not None:
        _check_shadow(window.shadow)


def _check_inputs(window: Window) -> None:
    sketched = 0
    if window.sketch is not None:
        check_word(window.sketch.sketch_id, "sketch_id")
        sketched = check_count(window.sketch.count, "sketched inputs", MOST_SKETCHED)
        check_sketch(window.sketch)
    if window.outlying != -1:
        check_count(window.outlying, "outlying inputs", sketched)
    check_summaries(window.inputs)


def _check_pairs(pairs: PairCounts) -> None:
    check_word(pairs.rollout, "rollout")
    for name in ("attempt", "old", "new"):
        check_count(getattr(pairs, name), name, LARGEST)
    for name in ("both", "only_old", "only_new", "neither"):
        check_count(getattr(pairs, name), name, MOST_PAIRS)
    check_count(pairs.repeats, "repeats", MOST_PAIRS)
    if pairs.keys:
        _check_keys(pairs.keys, pairs.both + pairs.only_old + pairs.only_new + pairs.neither, "pairs")


def _check_shadow(shadow: ShadowCounts) -> None:
    check_word(shadow.rollout, "rollout")
    for name in ("attempt", "old", "new"):
        check_count(getattr(shadow, name), name, LARGEST)
    for name in ("agree", "differ", "repeats", "non_finite", "failed", "crashed", "dropped"):
        check_count(getattr(shadow, name), name, MOST_PAIRS)
    for name in ("old_us", "new_us"):
        check_count(getattr(shadow, name), name, MOST_COUNT)
    if shadow.reason:
        check_word(shadow.reason, "reason")
    _check_keys(shadow.keys, shadow.agree + shadow.differ, "shadow")


def _check_keys(found: bytes, told: int, subject: str) -> None:
    """Raise MalformedError unless `found` are the keys of `told` different inputs."""
    keys = [found[at : at + KEY_BYTES] for at in range(0, len(found), KEY_BYTES)]
    check_count(len(keys), f"inputs of {subject}", MOST_KEYS)
    if len(found) % KEY_BYTES or len(set(keys)) != len(keys) or len(keys) != told:
        raise MalformedError(f"{len(found)} bytes of keys are not {told} different inputs", subject=subject)


def _figures(body: Any) -> Benchmark | None:
    """The figures in a result, if it has any; MalformedError for ones that cannot be right."""
    if not isinstance(body, CommandResult) or not body.ok or body.kind != "benchmark":
        return None
    return benchmarks.read(body.data)
