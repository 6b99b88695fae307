"""The compiler's children in this process: what they answer is the same, without a start of a second each.

That a crash in one of them is only a refusal is the matter of the compiler's own tests.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_compiler import preflight, runners, running
from tests.support.commands import call


def run_here(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a variant's run, or of the agent's self-test."""
    module, *arguments = command[2:]
    if module == "edge_agent":
        return call("edge-agent", *arguments)
    assert module == "model_compiler.running"
    try:
        running.main(Path(arguments[0]))
    except Exception as problem:
        return subprocess.CompletedProcess(command, 1, "", str(problem) or type(problem).__name__)
    return subprocess.CompletedProcess(command, 0, "", "")


def keep_children_here(patch: pytest.MonkeyPatch) -> None:
    """Let variants be run, and tried, in this process."""
    here = SimpleNamespace(run=run_here, TimeoutExpired=subprocess.TimeoutExpired)
    for module in (runners, preflight):
        patch.setattr(module, "subprocess", here)
