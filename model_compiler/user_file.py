"""A Python file of the user's, run as a program: factories of modules, metrics."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from model_compiler.errors import SourceError


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
        what = f"{type(error).__name__}: {error}"
        raise SourceError(f"{path}: cannot be run: {what}", subject=str(path)) from error
    return loaded
