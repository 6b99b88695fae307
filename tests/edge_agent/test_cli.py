from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_agent.host.lock import agent_lock
from edge_agent.main import main
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent import Agent
from tests.support.server import serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tested(tmp_path):
    """(arguments of selftest, release)."""
    release = models.release(tmp_path / "blobs")
    (tmp_path / "manifest.json").write_bytes(encode_manifest(release.manifest))
    arguments = ["--manifest", str(tmp_path / "manifest.json"), "--blobs", str(tmp_path / "blobs")]
    return ["selftest", *arguments, "--variant", "onnx-fp32"], release


def test_selftest_in_its_own_process(tested):
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.main", *tested[0], "--json"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["passed"] is True
    assert outcome["vectors"] == 8


def test_selftest_says_what_is_wrong(tested, capsys):
    arguments, release = tested
    assert main([*arguments, "--runtime", "nonsense"]) == 1
    assert "try: one of" in capsys.readouterr().err
    (release.blobs / release.variant.blob.sha256).write_bytes(b"tampered")
    assert main(arguments) == 1
    assert "does not have that hash" in capsys.readouterr().err


@pytest.fixture
def running(tmp_path):
    agent = Agent(tmp_path)
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None))
    with serving(**agent.listener) as (address, _), agent_lock(tmp_path):
        (tmp_path / "run.json").write_text(json.dumps({"address": f"http://{address}", "pid": os.getpid()}))
        yield tmp_path


def test_infer_and_status_of_a_running_agent(running, capsys):
    np.save(running / "x.npy", np.array([[9, 0, 0, 0]], np.float64))
    assert main(["infer", "tiny", "--input", str(running / "x.npy"), "--dir", str(running), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parameters"]["served_by"] == "edge"
    np.testing.assert_allclose(document["outputs"]["logits"], models.answer(np.array([[9, 0, 0, 0]], np.float32)))
    assert main(["status", "--dir", str(running), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "running": True,
        "source": "agent",
        "pid": os.getpid(),
        "models": ["tiny"],
    }
    assert main(["infer", "other", "--input", str(running / "x.npy"), "--dir", str(running)]) == 3


def test_pickles_are_not_opened(running, capsys):
    np.save(running / "evil.npy", np.array([{}], object), allow_pickle=True)
    assert main(["infer", "tiny", "--input", str(running / "evil.npy"), "--dir", str(running)]) == 2


def test_status_without_an_agent(tmp_path, capsys):
    assert main(["status", "--dir", str(tmp_path)]) == 3
    assert "try: edge-agent enroll" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["enroll", "run", "status", "infer", "selftest"])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"example: edge-agent {command}" in capsys.readouterr().out


def test_the_command_starts_light():
    code = "import sys, edge_agent.main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {"numpy", "uvicorn", "starlette", "paho", "tuf", "urllib3", "onnxruntime", "fastapi", "torch"}
    assert heavy.isdisjoint(modules.split())
