"""What a release costs on this device: latency at batch 1, load time and memory, per variant and runtime.

    edge-agent bench --dir DIR [--model M]          an installed release
    edge-agent bench --release-dir OUT              what `model-compiler compile --out OUT` wrote

Every case runs in a child process of its own (`python -m edge_agent.bench`), so that a runtime that
crashes ends nothing else, and so that the memory it reports is the model's alone. The inputs are
rows of the release's self-test vectors, whose answers are checked before anything is timed: the
speed of a wrong model is worth nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from edge_agent.errors import AgentError, LateError, ModelLoadError, NotFoundError, TrialError, UsageError
from fleet.protocol.channel import MAX_BENCH_ROUNDS
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest, Variant, decode_manifest
from fleet.protocol.messages import Benchmark

if TYPE_CHECKING:
    from edge_agent.ports import Arrays, LoadedModel
    from fleet.protocol.selftest import Vector

ROUNDS = 200
WARM_UP = 10  # runs before the first one that counts: caches, lazy allocation, the clock governor
TIMEOUT_S = 300.0
_PR_SET_PDEATHSIG = 1
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
    """Why a case could not be measured."""

    variant: str
    runtime: str
    reason: str
    detail: str


class _Said(Struct, frozen=True, kw_only=True):
    """The child's only line."""

    figures: Benchmark | None = None
    refused: Refused | None = None


# ---- what there is to measure -------------------------------------------------------------------


def cases_of(
    manifest: Manifest, blobs: Path, *, model: str = "", release: int = 0, variant: str = "", rounds: int = ROUNDS
) -> list[Case]:
    """Every edge variant whose file is in `blobs`, on every installed runtime of its kind.

    Args:
        variant: only this one (also one for the cloud).

    Raises:
        MalformedError: no such variant. NotFoundError: nothing of the release can run here.
        UsageError: `rounds` out of bounds.
    """
    from edge_agent import runtimes

    if not 1 <= rounds <= MAX_BENCH_ROUNDS:
        raise UsageError(f"{rounds} rounds; 1 to {MAX_BENCH_ROUNDS} are possible", subject="rounds")
    wanted = (manifest.variant(variant),) if variant else manifest.placed("edge")
    found = [
        Case(
            model=model, release=release, manifest=manifest, variant=one.name, runtime=name, blobs=str(blobs),
            rounds=rounds,
        )
        for one in wanted
        for name in _runtimes_for(one, runtimes.available())
        if (blobs / one.blob.sha256).is_file()
    ]  # fmt: skip
    if not found:
        names = ", ".join(f"{one.name} ({one.runtime})" for one in wanted) or "no edge variant"
        raise NotFoundError(
            f"nothing of {model or 'this release'} can be measured here: it has {names}",
            subject=model,
            hint="install a runtime, or name a variant whose file is here",
        )
    return found


def installed(directory: Path, model: str = "") -> Iterator[tuple[str, int, Manifest, Path]]:
    """The active releases of the agent in `directory`: model, number, manifest, folder of blobs.

    Raises:
        NotFoundError: the model (or any) is not installed. CorruptBlobError: a damaged manifest.
    """
    from edge_agent.update.state import read_state
    from edge_agent.update.store import Store

    if not (directory / "state.json").is_file():
        raise NotFoundError(
            f"no release is installed in {directory}", subject=str(directory), hint="edge-agent run --dir DIR"
        )
    store = Store(directory)
    active = {name: state.active for name, state in read_state(directory).models.items() if state.active is not None}
    if model and model not in active:
        raise NotFoundError(
            f"model {model!r} is not installed in {directory}",
            subject=model,
            hint=f"one of: {', '.join(active) or 'none'}",
        )
    for name, held in active.items():
        if model in ("", name):
            yield name, held.release, store.manifest(held.manifest), store.blobs


def compiled(directory: Path) -> tuple[Manifest, Path]:
    """The manifest and the folder of blobs of a compiled release directory; NotFoundError, ProtocolError."""
    try:
        return decode_manifest((directory / "manifest.json").read_bytes()), directory / "blobs"
    except OSError as error:
        raise NotFoundError(
            f"no release in {directory}: {error}", subject=str(directory), hint="model-compiler compile … --out DIR"
        ) from error


def _runtimes_for(variant: Variant, available: dict[str, str]) -> list[str]:
    from edge_agent import runtimes

    return [name for name in available if runtimes.RUNTIMES[name][1] == variant.runtime]


# ---- the parent's side --------------------------------------------------------------------------


async def in_child(case: Case, *, timeout_s: float = TIMEOUT_S) -> Benchmark:
    """Measure one case in a child process.

    Raises:
        ModelLoadError: it was refused, or the child died; the message says how.
        LateError: it took longer than `timeout_s`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge_agent.bench",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate(msgspec.json.encode(case) + b"\n")
    except TimeoutError as error:
        raise LateError(
            f"variant {case.variant} on {case.runtime} was not measured within {timeout_s:.0f} s",
            subject=case.variant,
            hint="ask for fewer rounds",
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _figures(case, out, process.returncode or 0)


async def run(cases: Sequence[Case], *, timeout_s: float = TIMEOUT_S) -> tuple[list[Benchmark], list[Refused]]:
    """Measure case by case, one at a time; a case that fails is in the second list."""
    figures: list[Benchmark] = []
    refused: list[Refused] = []
    for case in cases:
        try:
            figures.append(await in_child(case, timeout_s=timeout_s))
        except AgentError as error:
            refused.append(Refused(variant=case.variant, runtime=case.runtime, reason=error.reason, detail=str(error)))
    return figures, refused


def _figures(case: Case, out: bytes, code: int) -> Benchmark:
    lines = out.strip().splitlines()
    try:
        said = msgspec.json.decode(lines[-1], type=_Said) if lines else _Said()
    except msgspec.DecodeError:
        said = _Said()
    if code == 0 and said.figures is not None:
        return said.figures
    if said.refused is not None:
        raise ModelLoadError(said.refused.detail, subject=case.variant, reason=said.refused.reason)
    words = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise ModelLoadError(
        f"{case.runtime} {words} while variant {case.variant!r} was measured", subject=case.variant, reason="crashed"
    )


def main(arguments: argparse.Namespace) -> int:
    """`edge-agent bench`: a table, or one JSON document; 1 when a case could not be measured."""
    cases: list[Case] = []
    options: dict[str, Any] = {"variant": arguments.variant, "rounds": arguments.rounds}
    if arguments.release_dir is not None:
        manifest, blobs = compiled(arguments.release_dir)
        cases = cases_of(manifest, blobs, model=arguments.model, **options)
    else:
        for model, release, manifest, blobs in installed(arguments.dir, arguments.model):
            cases += cases_of(manifest, blobs, model=model, release=release, **options)
    if not cases:
        raise NotFoundError(f"no release is installed in {arguments.dir}", subject=str(arguments.dir))
    figures, refused = asyncio.run(run(cases))
    if arguments.json:
        document = {"figures": msgspec.to_builtins(figures), "refused": msgspec.to_builtins(refused)}
        print(msgspec.json.encode(document).decode())
    else:
        print("\n".join(table(figures)))
        for one in refused:
            print(f"error: {one.variant} on {one.runtime}: {one.detail}", file=sys.stderr)
    return 1 if refused else 0


def table(figures: Sequence[Benchmark]) -> list[str]:
    """The lines of a terminal table."""
    head = ("variant", "runtime", "p50 µs", "p95 µs", "load ms", "memory MiB", "process MiB")
    rows = [
        (
            f"{one.model} {one.release} {one.variant}" if one.release else one.variant,
            f"{one.runtime} {one.runtime_version}",
            f"{one.p50_us:.1f}", f"{one.p95_us:.1f}", f"{one.load_us / 1e3:.2f}",
            f"{one.memory_bytes / 2**20:.2f}", f"{one.process_bytes / 2**20:.1f}",
        )
        for one in figures
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return ["  ".join(_aligned(row, widths)) for row in (head, *rows)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The first two columns are words, the others numbers."""
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column < 2 else cell.rjust(width)


# ---- the child's side ---------------------------------------------------------------------------


def child() -> int:
    """Read a `Case` from stdin, write its figures or its refusal as one JSON line; 0 or 1."""
    # The parent's death ends this process: nobody would read its answer.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    case = msgspec.json.decode(sys.stdin.buffer.readline(), type=Case)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, case.memory_limit_bytes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_FSIZE, 1 << 20),
    ):
        resource.setrlimit(limit, (value, value))
    try:
        said = _Said(figures=measure(case))
    except (AgentError, ProtocolError, OSError, MemoryError, ValueError, RuntimeError) as error:
        reason = getattr(error, "reason", "") or "failed"
        detail = str(error) or type(error).__name__
        said = _Said(refused=Refused(variant=case.variant, runtime=case.runtime, reason=reason, detail=detail))
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
    import numpy as np

    from edge_agent import VERSION, runtimes
    from edge_agent.ports import read_blob
    from fleet.protocol.selftest import check, decode_vectors

    blobs = Path(case.blobs)
    variant = case.manifest.variant(case.variant)
    vectors = decode_vectors(read_blob(blobs, case.manifest.selftest.blob.sha256))
    data = read_blob(blobs, variant.blob.sha256)
    runtime = runtimes.named(case.runtime)
    before = _forget_peak()
    started = time.perf_counter()
    model = runtime.load(data, case.manifest, variant)
    load_us = (time.perf_counter() - started) * 1e6
    try:
        if any(case.variant in vector.outputs for vector in vectors):
            outcome = check(vectors, case.manifest.selftest, case.variant, model.run)
            if not outcome.passed:
                raise TrialError(outcome.reason, subject=case.variant)
        took = _timed(model, rows_of(vectors, case.manifest), case.rounds)
        peak = _resident("VmHWM:")
    finally:
        model.close()
    return Benchmark(
        model=case.model, release=case.release, variant=case.variant, runtime=case.runtime,
        runtime_version=runtime.version, agent=VERSION, rounds=case.rounds,
        p50_us=float(np.percentile(took, 50)), p95_us=float(np.percentile(took, 95)), load_us=load_us,
        memory_bytes=max(0, peak - before), process_bytes=peak,
    )  # fmt: skip


def rows_of(vectors: Sequence[Vector], manifest: Manifest) -> list[Arrays]:
    """Requests of one row each: the first row of every vector, or all of it where the batch is fixed."""
    from fleet.protocol.selftest import from_array

    batched = {tensor.name for tensor in manifest.inputs if tensor.shape[:1] == (-1,)}
    return [
        {a.name: from_array(a)[:1] if a.name in batched else from_array(a) for a in vector.inputs} for vector in vectors
    ]


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
