"""The four commands, called in this process: their entry points, environment and exit status, without a start.

A start costs a second or more of imports, which says nothing new. What is about processes (signals, locks that
another holds, what a start imports) starts one: `tests.support.hub_process`.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata

import pytest


def call(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `program …` to its end, with the EDGELOOP_… variables in `environment` and no other, and nobody to ask."""
    (entry,) = metadata.entry_points(group="console_scripts", name=program)
    words = [program, *map(str, arguments)]
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("EDGELOOP_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "stdin", io.StringIO())
        with redirect_stdout(out), redirect_stderr(error):
            code = _status(entry.load())
    return subprocess.CompletedProcess(words, code, out.getvalue(), error.getvalue())


def _status(main: object) -> int:
    """The exit code of the process; 1 and the error's name for what nobody caught."""
    assert callable(main)
    try:
        sys.exit(main())
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return int(ended.code or 0)
