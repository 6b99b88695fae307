"""The compiler's children in this process: what they answer is the same, without a start of a second each.

That a crash in one of them is only a refusal is the matter of the compiler's own tests.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_compiler.package import preflight
from model_compiler.running import runner, runner_process
from tests.support.commands import call


def run_here(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a variant's run, or of the agent's self-test; in another Python it is a process."""
    if command[0] != sys.executable:
        return subprocess.run(command, **options)
    module, *arguments = command[2:]
    if module == "edge_agent":
        return call("edge-agent", *arguments)
    assert module == "model_compiler.running.runner_process"
    try:
        runner_process.main(Path(arguments[0]))
    except Exception as problem:
        return subprocess.CompletedProcess(command, 1, "", str(problem) or type(problem).__name__)
    return subprocess.CompletedProcess(command, 0, "", "")


def keep_children_here(patch: pytest.MonkeyPatch) -> None:
    """Let variants be run, and tried, in this process."""
    here = SimpleNamespace(run=run_here, TimeoutExpired=subprocess.TimeoutExpired)
    for module in (runner, preflight):
        patch.setattr(module, "subprocess", here)
