"""The words on a child that does not answer."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from model_compiler.package import preflight
from tests.support import models


def test_a_variant_that_gets_no_answer_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def run(command: list[str], *, timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(preflight, "subprocess", SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired))
    made = models.release(tmp_path / "blobs", data=models.litert_bytes("fp32"), runtime="litert")
    place = preflight.InstalledRuntime(python="python", runtime="ai-edge-litert", kind="litert")
    said = preflight.refusal(made.manifest, made.variant, [], place)
    assert said == "no answer within 600 s: it hangs, or this machine is busy: try a quiet one"
