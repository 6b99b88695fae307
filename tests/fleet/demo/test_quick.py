"""`fleet demo --quick`: what comes along is whole, small and publishable, and no torch is asked for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fleet.demo.quick.main import DATA, digits
from fleet.protocol.manifest import decode_manifest
from tests.support.hub import HubFixture, make_hub
from tests.support.size import FULL

ROOT = Path(__file__).parents[3]
LARGEST = 150_000  # bytes of all that comes along
BLOCKED = ("torch", "torchvision", "litert_torch", "tensorflow", "jax", "sklearn", "scipy", "onnx", "pandas", "ray")
BLOCKER = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Blocked())
"""
COMMANDS = ("fleet.cli.main", "fleet.demo.quick.main", "cloud_hub.main", "cloud_hub.app", "edge_agent.main")


def manifest(name: str):
    return decode_manifest((DATA / name / "manifest.json").read_bytes())


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_release_holds_what_its_manifest_names_and_nothing_else(name: str) -> None:
    named = {blob.sha256: blob.size for blob in manifest(name).blobs()}
    found = {file.name: file.read_bytes() for file in (DATA / name / "blobs").iterdir()}
    assert {sha256: len(data) for sha256, data in found.items()} == named
    assert all(hashlib.sha256(data).hexdigest() == sha256 for sha256, data in found.items())
    assert {path.name for path in (DATA / name).iterdir()} == {"manifest.json", "blobs"}


def test_all_of_it_is_small_and_names_no_machine() -> None:
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    assert not [path for path in files if b"/home/" in path.read_bytes() or b"/root/" in path.read_bytes()]


@pytest.mark.parametrize(("name", "least"), [("first", 0.9), ("second", 0.95)])
def test_a_model_reads_the_digits_that_come_along(name: str, least: float) -> None:
    import onnxruntime

    (edge,) = [variant for variant in manifest(name).variants if variant.placement == "edge"]
    session = onnxruntime.InferenceSession(str(DATA / name / "blobs" / edge.blob.sha256))
    known = digits()
    (logits,) = session.run(None, {"x": known.x})
    assert known.x.shape == (120, 64) and known.x.min() == 0 and known.x.max() == 1
    assert np.mean(logits.argmax(1) == known.y) >= least


@pytest.fixture
def published(tmp_path: Path) -> HubFixture:
    fixture = make_hub(tmp_path)
    fixture.model()
    return fixture


def test_a_hub_signs_both_with_its_own_keys_as_two_releases_of_one_model(published: HubFixture) -> None:
    for number, name in enumerate(("first", "second"), start=1):
        for file in (DATA / name / "blobs").iterdir():
            published.hub.objects.put_new(f"blobs/{file.name}", file.read_bytes())
        data = (DATA / name / "manifest.json").read_bytes()
        release = published.hub.publisher.publish_release("digits", data, actor="test")
        assert (release.number, release.status) == (number, "published")


def test_all_that_the_demo_starts_does_without_torch(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    code = (
        f"for name in {COMMANDS!r}: __import__(name)\ntry: import torch\nexcept ModuleNotFoundError: print('blocked')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=_environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("blocked\n", 0), done.stderr


@pytest.mark.skipif(not FULL, reason="half a minute of CPU: `make test-full` plays the whole of it")
def test_the_demo_plays_to_its_end_without_torch(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    words = [sys.executable, "-m", "fleet.cli.main", "demo", "--quick", "--dir", str(tmp_path / "demo")]
    done = subprocess.run(words, cwd=ROOT, env=_environment(tmp_path), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("release 2", "unsure", "marked as degraded", "everything happened as it should", "what to try next"):
        assert said in done.stdout
    assert not [path for path in tmp_path.rglob("*.log") if "blocked: " in path.read_text(errors="replace")]


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "COLUMNS": "200"}
