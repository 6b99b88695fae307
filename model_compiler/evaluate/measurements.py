"""Keeps what a machine measured, by content: the same model files are not measured again.

Latency, load time and memory are part of the signed verdict and differ a little from run to run. Kept
under a digest of everything they depend on, they come out the same the next time, and with them the
release (docs/adr/0010).
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from fleet.protocol.preprocessing import digest
from fleet.protocol.tensors import to_bytes
from model_compiler.build.artifacts import Artifact
from model_compiler.evaluate.verdict import Figures
from model_compiler.inputs.dataset import Dataset
from model_compiler.inputs.preprocessing import NO_STEPS, Preparation
from model_compiler.running import runner
from model_compiler.running.runner import RunLatency, VariantProfile

log = logging.getLogger(__name__)

VERSION = 2  # of how it is measured
RUNTIMES = ("ai-edge-litert", "onnxruntime", "numpy")


def figures(
    artifacts: Sequence[Artifact],
    profiles: dict[str, VariantProfile],
    data: Dataset,
    kept: Path | None,
    preparation: Preparation = NO_STEPS,
) -> dict[str, Figures]:
    """The cost of every artifact by name, measured in turns in one run; from `kept` where it is there already.

    Args:
        artifacts: the model files.
        profiles: what the child saw of each, by its name.
        data: what they are asked; its first rows are used.
        kept: the folder that keeps what was measured; None measures anew.
        preparation: the front and steps, which are part of what a request costs.

    Raises:
        TargetError: one of them cannot be timed.
    """
    path = None if kept is None else kept / f"{_key(artifacts, data, preparation)}.json"
    known = None if path is None else _read(path)
    if known is not None:
        return known
    models = {a.name: (a.target.runtime, a.model) for a in artifacts}
    latency = runner.latencies(models, data, {a.name: a.wanted for a in artifacts}, preparation)
    found = {a.name: _figures(a, latency[a.name], profiles[a.name]) for a in artifacts}
    if path is not None:
        try:
            _write(path, msgspec.json.encode(found))
        except OSError as error:  # a home that is read-only, or full: the release does not need it
            log.warning("what was measured is not kept: %s: %s", path.parent, error.strerror or error)
    return found


def _figures(artifact: Artifact, latency: RunLatency, profile: VariantProfile) -> Figures:
    return Figures(len(artifact.model), latency.p50, latency.p95, profile.load_ms, profile.peak_memory_bytes)


def _read(path: Path) -> dict[str, Figures] | None:
    """Read what was kept; None where it is not there, cannot be read, or was cut short."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Figures])
    except (OSError, msgspec.DecodeError):
        return None


def _key(artifacts: Sequence[Artifact], data: Dataset, preparation: Preparation) -> str:
    rows = data.take(slice(runner.LATENCY_ROWS))
    versions = [f"{name} {metadata.version(name)}" for name in RUNTIMES]
    content = [
        *(VERSION, platform.python_version(), *versions, _machine()),
        sorted((a.name, hashlib.sha256(a.model).hexdigest(), *a.wanted.outputs) for a in artifacts),
        [(name, hashlib.sha256(to_bytes(array)).hexdigest()) for name, array in rows.inputs.items()],
        *([digest(preparation.steps, preparation.described)] if preparation else []),
    ]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _machine() -> str:
    """The processor, as far as it says."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {model} {os.cpu_count()}"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
