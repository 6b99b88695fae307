"""A benchmark that is called as a module of Python's own stands in no other's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_scripts_find_the_standard_library_and_not_each_other() -> None:
    """A script's folder is where Python looks first."""
    shadows = sorted({path.stem for path in FOLDER.glob("*.py")} & set(sys.stdlib_module_names))
    code = f"""
import importlib, sys
def public():
    return [set(dir(importlib.import_module(name))) for name in {shadows!r}]
own = public()
for name in {shadows!r}:
    del sys.modules[name]
sys.path.insert(0, {str(FOLDER)!r})
for theirs, found in zip(own, public(), strict=True):
    assert theirs <= found, theirs - found
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
