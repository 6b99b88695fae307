"""A model's runtime tells nobody that it runs: no file in the user's home, and nothing to send from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import models

OPEN = """
import sys
from pathlib import Path
from fleet.runtimes.onnx import OnnxRuntime
OnnxRuntime().open(Path(sys.argv[1]).read_bytes())
"""
QUANTIZE = """
import sys
from pathlib import Path
import numpy as np
from model_compiler.build.onnx import activations
list(activations(Path(sys.argv[1]).read_bytes(), [np.zeros((2, 4), np.float32)]))
"""


@pytest.mark.parametrize("code", [OPEN, QUANTIZE], ids=["serve", "compile"])
def test_onnx_runtime_keeps_no_database_for_its_maker(tmp_path: Path, code: str) -> None:
    model, home = tmp_path / "model.onnx", tmp_path / "home"
    model.write_bytes(models.onnx_bytes())
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_"))}
    subprocess.run([sys.executable, "-c", code, str(model)], check=True, env={**kept, "HOME": str(home)})
    assert not list(home.rglob("*"))
