"""A Python file of the user's, run as a program: factories of modules, metrics."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from model_compiler.errors import SourceError

_SITE = ("site-packages", "dist-packages", "/lib/python", "<frozen", "<string>")
_OURS = tuple(str(Path(__file__).resolve().parents[1] / room) for room in ("model_compiler", "cloud_hub", "fleet"))


def place_of(error: BaseException) -> str:
    """Return the place in the user's own code at which an error arose: ` in line 7 of recipe.py`, or nothing."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OURS) and not any(part in frame.filename for part in _SITE)
    ]
    return f" in line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""


def said(error: BaseException) -> str:
    """Kind, place and words of what a user's code has raised: `KeyError in line 7 of recipe.py: 'tag'`."""
    return f"{type(error).__name__}{place_of(error)}: {str(error).strip() or 'no words'}"


def run_file(path: Path) -> Any:
    """Run a Python file of the user's and return it as a module; raises SourceError when it fails.

    As when Python runs a file, the modules beside it can be imported, now and by its functions later.
    """
    name = f"_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SourceError(f"{path}: no such file", subject=str(path))
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # where dataclasses and type hints look for the module of their class
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # The file is the user's own program and may raise anything; this is the boundary that names it.
    try:
        spec.loader.exec_module(loaded)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SourceError(f"{path}: cannot be run: {said(error)}", subject=str(path)) from error
    return loaded
