"""A release that served until its load ends the process: the agent, its other models and the way to an update live."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from edge_agent.update.disk.crash_log import FILE, MOST
from edge_agent.update.disk.state import StateFile, read_state
from edge_agent.update.rules.model_state import ModelState
from tests.support import models
from tests.support.agent_process import ROOT, enrolled, running
from tests.support.crashing import HOOK, crashing


def version(address: str, model: str) -> str:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 0, 0, 0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    with urllib.request.urlopen(f"{address}/v2/models/{model}/infer", body, timeout=120) as answer:
        return json.load(answer)["model_version"]


def dies(directory: Path) -> int:
    """A start that ends by itself; its exit status."""
    command = [sys.executable, "-m", "edge_agent.main", "run", "--dir", str(directory), "--redact", HOOK]
    with (directory / "log").open("ab") as log:
        return subprocess.run(command, cwd=ROOT, stderr=log, timeout=60).returncode


def test_a_committed_release_that_crashes_at_each_start_gives_way_to_the_one_before_it(tmp_path: Path) -> None:
    directory = enrolled(tmp_path / "device")
    (directory / "agent.toml").write_text("port = 0\n")
    old = models.installed(directory, model="broken")
    bad = models.installed(directory, model="broken", number=2, data=crashing(models.onnx_bytes()))
    file = StateFile(directory)
    file.put_model("broken", ModelState(state="committed", active=bad, previous=old))
    file.put_model("tiny", ModelState(state="committed", active=models.installed(directory)))
    for start in range(MOST):
        assert dies(directory) == -signal.SIGSEGV
        others = "model tiny serves release 1" in (directory / "log").read_text()
        assert others == (start > 0)  # what may end the agent comes last
    for _ in range(2):  # it stays so
        with running(directory, "--redact", HOOK) as (_, address):
            assert (version(address, "broken"), version(address, "tiny")) == ("1", "1")
            with urllib.request.urlopen(f"{address}/status", timeout=120) as answer:
                shown = json.load(answer)["models"]["broken"]
    assert (shown["state"], shown["active"], shown["serving"], shown["reason"]) == ("committed", 2, 1, "crash-loop")
    assert "3 times while it loaded release 2" in shown["detail"] and "boot" in shown["hint"]
    assert read_state(directory).models["broken"].active == bad  # for a runtime that can load it again
    (directory / FILE).unlink()
    assert dies(directory) == -signal.SIGSEGV
