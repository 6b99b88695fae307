"""`tflite-runtime`, the fallback for old systems, serves a release in an environment of its own.

It needs numpy below 2 and Python 3.11, so it cannot live beside the other runtimes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent import client
from edge_agent.errors import NotFoundError
from edge_agent.update.disk.state import StateFile, read_state
from edge_agent.update.messages import Confined, StepDone
from edge_agent.update.rules.model_state import ModelState
from edge_agent.update.worker import sandbox
from tests.support import models
from tests.support.agent_process import ROOT, enrolled, running

UNREACHABLE = re.compile("Could not fetch URL|Could not find a version|onnection|timed out|resolve")
pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime 2.14 has no wheel for this Python")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the agent's dependencies, tflite-runtime instead of ai-edge-litert."""
    home = tmp_path_factory.mktemp("tflite")
    venv.create(home, with_pip=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [d for d in project["dependencies"] if not d.startswith(("ai-edge-litert", "numpy"))]
    wanted += [d.split(";")[0] for d in project["optional-dependencies"]["tflite"]]
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    if done.returncode and UNREACHABLE.search(done.stderr):
        reason = f"the package index is not reachable: {done.stderr.strip().splitlines()[-1]}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    assert done.returncode == 0, done.stderr
    return str(home / "bin" / "python")


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device that has committed release 1, as float32: 2.14 refuses the newer int8 files."""
    directory = enrolled(tmp_path / "device")
    held = models.installed(directory, data=models.litert_bytes("fp32"), runtime="litert")
    StateFile(directory).put_model("tiny", ModelState(state="committed", active=held))
    return directory


def test_release_1_is_served_by_tflite_runtime(python: str, device: Path):
    x = models.inputs(3)
    with running(device, "--port", "0", python=python) as (_, address):
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = client.infer("tiny", x, url=address)
                break
            except NotFoundError:
                assert time.monotonic() < deadline, (device / "log").read_text()
        document = client.status(device)
    assert answer.parameters["served_by"] == "edge" and answer.parameters["release"] == 1
    np.testing.assert_allclose(answer.outputs[0].array, models.answer(x), atol=1e-3)
    assert document["models"]["tiny"]["runtime"] == "tflite-runtime"


def test_the_compiler_claims_it_for_the_variants_that_it_takes(python: str, tmp_path: Path, monkeypatch):
    import torch

    from model_compiler.inputs.request import CompileRequest
    from model_compiler.pipeline import compile_release
    from tests.model_compiler.conftest import fitted, stripes

    torch.manual_seed(0)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the agent's code, which is not installed there
    made = compile_release(
        CompileRequest(
            module=fitted(channels=4, steps=60),
            calibration=stripes(60, seed=2),
            validation=stripes(80, seed=3),
            targets=("litert-int8", "litert-int8-dynamic", "litert-fp32"),
            pythons=(Path(python),),
            out=tmp_path / "release",
        )
    )
    assert made.manifest.variant("litert-fp32").runtimes == ("ai-edge-litert", "tflite-runtime")
    for variant in made.manifest.variants:  # each was tried: taken, or refused in words
        refused = made.document["variants"][variant.name]["refused"]
        assert ("tflite-runtime" in variant.runtimes) != bool(refused.get("tflite-runtime"))


def test_its_self_test_passes_in_the_sandbox(python: str, device: Path):
    held = read_state(device).models["tiny"].active
    command = [python, "-m", "edge_agent.update.worker.process", "trial", str(device)]
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    line = msgspec.json.encode(held) + b"\n"
    done = subprocess.run(command, input=line, cwd=ROOT, env=environ, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    *_, confined, last = done.stdout.splitlines()
    assert msgspec.json.decode(last, type=StepDone) == StepDone()
    in_force = msgspec.json.decode(confined, type=Confined).sandbox
    assert ("seccomp" in in_force) == (sandbox.machine() is not None)
    assert any(part.startswith("landlock") for part in in_force) == (sandbox.landlock_abi() > 0)
