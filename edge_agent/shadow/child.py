"""The process that runs a shadowed release, from within: `python -m edge_agent.update.worker.process shadow DIR`.

It is confined like a self-test (`update.worker.confining`), has the lowest priority, and is the first to go where the
device's memory ends. A frame on stdin, 4 bytes of
length and then MessagePack, names the release; each further one is a request with the answer that it got. Each is
answered by one frame. What a runtime prints goes to stderr, so that nothing but frames is on stdout.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.ports import Arrays, LoadedModel, load_variant, read_blob
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease
from fleet import tasks
from fleet.protocol.channel import RolloutRef
from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest
from fleet.protocol.messages import Array
from fleet.protocol.pairing import input_keys
from fleet.protocol.shadow import keyed_apart
from fleet.protocol.tensors import from_array

FRAME_LIMIT = 32 << 20  # bytes
ANSWER_LIMIT = 1 << 20  # bytes of one that comes back
MOST_ROWS = 1024  # of a request that are compared
LOWEST = 19
FIRST_TO_GO = "1000"  # where memory ends, the kernel takes this process, and none that serves
SAID = 300  # characters of why a run failed


class ShadowRequest(Struct, frozen=True, kw_only=True):
    """A request with the answer that it got, and the rollout that names its inputs."""

    rollout: RolloutRef
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


class Answered(Struct, frozen=True, kw_only=True):
    """Row by row, of the first `MOST_ROWS`, the input's key, whether both answers agree, and whether this one holds NaN
    or infinity where it must not; all empty before the first request. Where the run failed (`failed` says why) all rows
    differ.

    `run_s` is the processor's time for this run, `cpu_s` for everything that this process has done so far; seconds.
    """

    keys: tuple[bytes, ...] = ()
    agree: tuple[bool, ...] = ()
    broken: tuple[bool, ...] = ()
    failed: str = ""
    run_s: float = 0.0
    cpu_s: float = 0.0


def run(config: AgentConfig, lines: IO[bytes], out: IO[bytes]) -> None:
    """Load the release that the first frame names, say so, and answer until stdin ends."""
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST)  # whatever that of the agent is
    with contextlib.suppress(OSError):  # no such file: another kernel
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    own = os.fdopen(os.dup(out.fileno()), "wb")
    os.dup2(2, out.fileno())
    try:
        model, manifest = _loaded(config, decode_msgpack(read_frame(lines), HeldRelease, limit=FRAME_LIMIT))
    except (AgentError, ProtocolError, OSError, MemoryError) as error:
        write_frame(own, Answered(failed=_in_words(error), cpu_s=time.process_time()))
        return
    write_frame(own, Answered(cpu_s=time.process_time()))
    while frame := read_frame(lines):
        write_frame(own, answer(model, manifest, decode_msgpack(frame, ShadowRequest, limit=FRAME_LIMIT)))


def _loaded(config: AgentConfig, held: HeldRelease) -> tuple[LoadedModel, Manifest]:
    from edge_agent import runtimes
    from edge_agent.update.worker.confining import confined

    store = Store(config.dir)
    manifest, _ = confined(config, store, held, {})
    variant = manifest.variant(held.variant)
    return load_variant(runtimes.for_variant(variant), partial(read_blob, store.blobs), manifest, variant), manifest


def answer(model: LoadedModel, manifest: Manifest, asked: ShadowRequest) -> Answered:
    """Run one request and compare, by the model's task, with the answer that it got. A failed run is an answer, too."""
    inputs, theirs = ({array.name: from_array(array) for array in some} for some in (asked.inputs, asked.outputs))
    task, began = tasks.of_manifest(manifest), time.process_time()
    if not task.compares:  # the hub orders no such comparison: nothing is said for or against the release
        return Answered(cpu_s=began)
    old = task.answers(theirs)[:MOST_ROWS]
    keys = input_keys(
        keyed_apart(asked.rollout), inputs, len(old), {spec.name for spec in manifest.inputs if spec.batched}
    )
    try:
        outputs = model.run(inputs)
        took = time.process_time() - began
        broken = _broken(outputs, manifest, len(old))
        outputs = _rows(outputs, manifest, slice(len(old)))
        new = iter(task.answers(_rows(outputs, manifest, ~broken)) if not broken.all() else ())
        agree = tuple(not bad and task.agrees(one, next(new)) for one, bad in zip(old, broken, strict=True))
    except Exception as error:  # noqa: BLE001  # whatever a runtime raises is a failed run, as where it serves
        nothing, failed = (False,) * len(old), _in_words(error)
        return Answered(keys=keys, agree=nothing, broken=nothing, failed=failed, cpu_s=time.process_time())
    return Answered(keys=keys, agree=agree, broken=tuple(broken.tolist()), run_s=took, cpu_s=time.process_time())


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:SAID]


def _broken(outputs: Arrays, manifest: Manifest, rows: int) -> npt.NDArray[np.bool_]:
    """Mark the first rows that hold NaN or infinity where the manifest wants finite numbers; (rows,)."""
    found = np.zeros(rows, bool)
    for spec in manifest.outputs:
        array = outputs[spec.name]
        if spec.finite and array.dtype.kind == "f":
            bad = ~np.isfinite(array)
            found |= bad.reshape(len(bad), -1)[:rows].any(axis=1) if spec.batched else bool(bad.any())
    return found


def _rows(outputs: Arrays, manifest: Manifest, which: npt.NDArray[np.bool_] | slice) -> Arrays:
    batched = {spec.name for spec in manifest.outputs if spec.batched}
    return {name: array[which] if name in batched else array for name, array in outputs.items()}


def read_frame(lines: IO[bytes]) -> bytes:
    """The next frame; empty when there is none any more."""
    head = lines.read(4)
    size = int.from_bytes(head, "little") if len(head) == 4 else 0
    return lines.read(size) if size <= FRAME_LIMIT else b""


def write_frame(out: IO[bytes], message: Struct) -> None:
    """One frame."""
    out.write(framed(message))
    out.flush()


def framed(message: Any) -> bytes:
    """A message as a frame; empty when it is too large for one."""
    body = encode_msgpack(message)
    return len(body).to_bytes(4, "little") + body if len(body) <= FRAME_LIMIT else b""
