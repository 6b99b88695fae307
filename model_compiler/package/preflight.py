"""Each variant is loaded and run by the agent's own self-test, in every runtime that is at hand, before it may ship.

The self-test runs as a child process (`edge-agent selftest`), so a crash of the runtime is a refusal.
Another environment's interpreter brings that environment's runtimes: tflite-runtime, which needs an
older numpy, cannot live beside the compiler.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from fleet.protocol.manifest import Manifest, Variant, encode_manifest
from model_compiler.errors import CompilerError
from model_compiler.inputs.release_folder import blob_of

TIMEOUT_S = 600.0  # by the clock, so a machine that is busy with others must not make a variant look as if it hung


class InstalledRuntime(Struct, frozen=True, kw_only=True):
    """A runtime in an environment; `kind` is what its variants call it (`litert`, `onnx`)."""

    python: str
    runtime: str
    kind: str
    version: str = ""


def places(pythons: Sequence[Path] = ()) -> tuple[InstalledRuntime, ...]:
    """Every runtime of this environment and of the others, each once, best first.

    Raises:
        CompilerError: an interpreter cannot say what it has.
    """
    found: dict[str, InstalledRuntime] = {}
    for python in (sys.executable, *map(str, pythons)):
        for place in _asked(python):
            found.setdefault(place.runtime, place)
    return tuple(found.values())


@lru_cache(maxsize=16)
def _asked(python: str) -> tuple[InstalledRuntime, ...]:
    hint = "name the python of an environment in which edgeloop is installed"
    try:
        command = [python, "-m", "edge_agent", "runtimes", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        listed = msgspec.json.decode(done.stdout, type=list[dict[str, str]])
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        what = f"{python}: cannot say which runtimes it has: {error}"
        raise CompilerError(what, subject=python, hint=hint) from error
    return tuple(
        InstalledRuntime(python=python, runtime=e["name"], kind=e["kind"], version=e["version"]) for e in listed
    )


def refusal(manifest: Manifest, variant: Variant, blobs: Sequence[bytes], place: InstalledRuntime) -> str:
    """Return why a runtime refuses the variant, in its own words; an empty string when it passes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "manifest.json").write_bytes(encode_manifest(manifest))
        (path / "blobs").mkdir()
        for data in blobs:
            (path / "blobs" / blob_of(data).sha256).write_bytes(data)
        command = [place.python, "-m", "edge_agent", "selftest", "--runtime", place.runtime, "--variant", variant.name]
        command += ["--manifest", str(path / "manifest.json"), "--blobs", str(path / "blobs")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return f"no answer within {TIMEOUT_S:.0f} s: it hangs, or this machine is busy: try a quiet one"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"crashed with signal {-done.returncode}"
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    words = [line for line in lines if not line.startswith("try: ")] or lines
    return words[-1].removeprefix("error: ")[:300] if words else f"exit code {done.returncode}"
