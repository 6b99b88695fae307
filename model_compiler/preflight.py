"""Each variant is loaded and run by the agent's own self-test before it may ship.

The self-test runs as a child process (`edge-agent selftest`), so a crash of the runtime is a refusal.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from fleet.protocol.manifest import Manifest, Variant, encode_manifest
from model_compiler.pack import blob_of

TIMEOUT_S = 120.0


def refusal(manifest: Manifest, variant: Variant, blobs: list[bytes], runtime: str) -> str:
    """Why `runtime` refuses the variant, in its own words; an empty string when it passes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "manifest.json").write_bytes(encode_manifest(manifest))
        (path / "blobs").mkdir()
        for data in blobs:
            (path / "blobs" / blob_of(data).sha256).write_bytes(data)
        command = [
            sys.executable, "-m", "edge_agent", "selftest", "--manifest", str(path / "manifest.json"),
            "--variant", variant.name, "--blobs", str(path / "blobs"), "--runtime", runtime,
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return f"no answer within {TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"crashed with signal {-done.returncode}"
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.returncode}"
