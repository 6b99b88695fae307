"""Measures one variant on one runtime: `python -m edge_agent.runtimes.measuring`, the child of `edge_agent.bench`.

The inputs are rows of the release's self-test vectors, whose answers are checked before anything is
timed: the speed of a wrong model is worth nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from edge_agent import VERSION, runtimes
from edge_agent.errors import AgentError, TrialError
from edge_agent.host.child_process import end_with_parent, leave_no_core, limit_model
from edge_agent.ports import Arrays, LoadedModel, load_variant, read_blob
from edge_agent.runtimes.selftest import agree_of
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest
from fleet.protocol.messages import Benchmark
from fleet.protocol.selftest import Vector, check_vectors, decode_vectors, from_array

ROUNDS = 200
WARM_UP = 10  # runs before the first one that counts: caches, lazy allocation, the clock governor
PARTS = 3
LONG_ENOUGH = 40  # calls in a part, so that its p95 is more than its slowest call
_STATUS = Path("/proc/self/status")


class Case(Struct, frozen=True, kw_only=True):
    """One thing to measure: a variant on a runtime (its distribution). `blobs` holds files named by SHA-256."""

    model: str
    release: int
    manifest: Manifest
    variant: str
    runtime: str
    blobs: str
    rounds: int = ROUNDS
    memory_limit_bytes: int = 4 << 30


class Refused(Struct, frozen=True, kw_only=True):
    """The reason for which a case could not be measured."""

    variant: str
    runtime: str
    reason: str
    detail: str


class MeasuringReport(Struct, frozen=True, kw_only=True):
    """The child's only line."""

    figures: Benchmark | None = None
    refused: Refused | None = None


def child() -> int:
    """Read a `Case` from stdin, write its figures or its refusal as one JSON line; 0 or 1."""
    end_with_parent()
    case = msgspec.json.decode(sys.stdin.buffer.readline(), type=Case)
    leave_no_core()
    limit_model(case.memory_limit_bytes)
    try:
        said = MeasuringReport(figures=measure(case))
    except (AgentError, ProtocolError, OSError, MemoryError, ValueError, RuntimeError) as error:
        reason = getattr(error, "reason", "") or "failed"
        detail = str(error) or f"{case.runtime} failed on variant {case.variant!r} with {type(error).__name__}"
        said = MeasuringReport(
            refused=Refused(variant=case.variant, runtime=case.runtime, reason=reason, detail=detail)
        )
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()
    return 0 if said.figures is not None else 1


def measure(case: Case) -> Benchmark:
    """Load a variant, check its answers and time it, in this process.

    Latency is one call of the runtime at batch 1 (µs, monotonic clock); load is from the file's bytes
    in memory to a model that can answer; `memory_bytes` is by how much the resident memory's peak
    exceeds what it was right before the model was loaded, the runtime's own code not counted.

    Raises:
        AgentError, ProtocolError: it cannot be loaded or does not answer as its release says.
    """
    blobs = Path(case.blobs)
    variant = case.manifest.variant(case.variant)
    vectors = decode_vectors(read_blob(blobs, case.manifest.selftest.blob.sha256))
    if not vectors:
        raise TrialError("the release has no self-test vectors", subject=case.variant)
    front = case.manifest.in_front
    files = [variant.blob.sha256] + ([front.blob.sha256] if front is not None else [])
    data = {sha256: read_blob(blobs, sha256) for sha256 in files}  # the disk is not what is measured
    runtime = runtimes.named(case.runtime)
    before = _forget_peak()
    started = time.perf_counter()
    model = load_variant(runtime, data.__getitem__, case.manifest, variant)
    load_us = (time.perf_counter() - started) * 1e6
    try:
        _check_answers(case, model, vectors)
        p50_us, p95_us = quantiles(_timed(model, rows_of(vectors, case.manifest), case.rounds))
        peak = _resident("VmHWM:")
    finally:
        model.close()
    return Benchmark(
        model=case.model,
        release=case.release,
        variant=case.variant,
        runtime=case.runtime,
        runtime_version=runtime.version,
        agent=VERSION,
        rounds=case.rounds,
        p50_us=p50_us,
        p95_us=p95_us,
        load_us=load_us,
        memory_bytes=max(0, peak - before),
        process_bytes=peak,
    )


def _check_answers(case: Case, model: LoadedModel, vectors: Sequence[Vector]) -> None:
    """Raise TrialError where the release has answers for the variant, and these are others."""
    if not any(case.variant in vector.outputs for vector in vectors):
        return
    agree = agree_of(case.manifest)
    outcome = check_vectors(vectors, case.manifest.selftest, case.variant, model.run, case.manifest.outputs, agree)
    if not outcome.passed:
        raise TrialError(outcome.reason, subject=case.variant)


def rows_of(vectors: Sequence[Vector], manifest: Manifest) -> list[Arrays]:
    """Requests of one row each: the first row of every vector, or all of it where the batch is fixed."""
    batched = {tensor.name for tensor in manifest.inputs if tensor.shape[:1] == (-1,)}
    return [
        {a.name: from_array(a)[:1] if a.name in batched else from_array(a) for a in vector.inputs} for vector in vectors
    ]


def quantiles(took: Sequence[float]) -> tuple[float, float]:
    """p50 and p95 of `took`: of each the median over `PARTS` consecutive parts, where they are long enough.

    A burst of other work falls into one part, and one part does not decide.
    """
    parts = np.array_split(np.asarray(took), PARTS if len(took) >= PARTS * LONG_ENOUGH else 1)
    p50, p95 = (float(np.median([np.percentile(part, q) for part in parts])) for q in (50, 95))
    return p50, p95


def _timed(model: LoadedModel, requests: Sequence[Arrays], rounds: int) -> list[float]:
    """Microseconds of `rounds` calls, after a warm-up."""
    for number in range(WARM_UP):
        model.run(requests[number % len(requests)])
    took = []
    for number in range(rounds):
        request = requests[number % len(requests)]
        started = time.perf_counter_ns()
        model.run(request)
        took.append((time.perf_counter_ns() - started) / 1e3)
    return took


def _forget_peak() -> int:
    """Reset the peak of resident memory and return the present one, in bytes.

    A kernel that does not let a process do so leaves the old peak, which then is the starting point.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _resident("VmHWM:")
    return _resident("VmRSS:")


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    sys.exit(child())
