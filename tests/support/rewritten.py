"""`python -m tests.support.rewritten PATHS`: compile the tests as pytest does, once and on all processors.

pytest rewrites the asserts of a file when it imports it first, which is half of what it takes to collect the tests of a
fresh clone. The workers of `scripts/run-tests` begin at the same time, so each of them would do that for every file.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.assertion import rewrite

QUIET: Any = SimpleNamespace(trace=lambda *_: None)
_config: Any = None


class Rewriting:
    """A plugin that rewrites in place of running."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        global _config
        _config = config  # which the forks have from here
        with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
            pool.map(rewritten, sorted(set(files(config.args))), chunksize=4)
        return 0


def rewritten(path: Path) -> None:
    """Write the file's code beside it, unless it is there."""
    folder = rewrite.get_cache_dir(path)
    kept = folder / (path.name.removesuffix(".py") + rewrite.PYC_TAIL)
    if rewrite._read_pyc(path, kept) is None and rewrite.try_makedirs(folder):
        with contextlib.suppress(SyntaxError):  # which pytest reports where it collects
            source_hash, code = rewrite._rewrite_test(path, _config)
            rewrite._write_pyc(QUIET, code, source_hash, kept)


def files(arguments: list[str]) -> Iterator[Path]:
    """The files that pytest would import for its arguments."""
    for argument in arguments:
        path = Path(argument.partition("::")[0]).resolve()
        if path.is_dir():
            yield from (*path.rglob("test_*.py"), *path.rglob("conftest.py"))
        elif path.suffix == ".py":
            yield path


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:xdist", *sys.argv[1:]], plugins=[Rewriting()]))
