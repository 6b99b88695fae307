"""The cost of a release on this device: latency at batch 1, load time and memory, per variant and runtime.

    edge-agent bench --dir DIR [--model M]          an installed release
    edge-agent bench --release-dir OUT              what `model-compiler compile --out OUT` wrote

Every case runs in a child process of its own (`runtimes.measuring`), so that a runtime that
crashes ends nothing else, and so that the memory it reports is the model's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.errors import AgentError, LateError, ModelLoadError, NotFoundError, UsageError
from edge_agent.host.child_process import kill
from edge_agent.runtimes.measuring import ROUNDS, Case, MeasuringReport, Refused
from fleet.protocol.channel import MAX_BENCH_ROUNDS
from fleet.protocol.manifest import Manifest, Variant, decode_manifest
from fleet.protocol.messages import Benchmark

TIMEOUT_S = 300.0


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
            model=model,
            release=release,
            manifest=manifest,
            variant=one.name,
            runtime=name,
            blobs=str(blobs),
            rounds=rounds,
        )
        for one in wanted
        for name in _runtimes_for(one, runtimes.available())
        if (blobs / one.blob.sha256).is_file()
    ]
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
    from edge_agent.update.disk.state import read_state
    from edge_agent.update.disk.store import Store

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


async def in_child(case: Case, *, timeout_s: float = TIMEOUT_S) -> Benchmark:
    """Measure one case in a child process.

    Raises:
        ModelLoadError: it was refused, or the child died; the message says how.
        LateError: it took longer than `timeout_s`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "edge_agent.runtimes.measuring",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
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
        kill(process)
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
        said = msgspec.json.decode(lines[-1], type=MeasuringReport) if lines else MeasuringReport()
    except msgspec.DecodeError:
        said = MeasuringReport()
    if code == 0 and said.figures is not None:
        return said.figures
    if said.refused is not None:
        raise ModelLoadError(said.refused.detail, subject=case.variant, reason=said.refused.reason)
    words = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise ModelLoadError(
        f"{case.runtime} {words} while variant {case.variant!r} was measured", subject=case.variant, reason="crashed"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run `edge-agent bench`: print a table, or one JSON document; return 1 when a case could not be measured.

    Raises:
        NotFoundError: there is nothing to measure.
    """
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
            f"{one.p50_us:.1f}",
            f"{one.p95_us:.1f}",
            f"{one.load_us / 1e3:.2f}",
            f"{one.memory_bytes / 2**20:.2f}",
            f"{one.process_bytes / 2**20:.1f}",
        )
        for one in figures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return ["  ".join(_aligned(row, widths)) for row in (head, *rows)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The first two columns are words, the others numbers."""
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column < 2 else cell.rjust(width)
