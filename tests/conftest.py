"""Options and settings that all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import counts, exporting
from tests.support.size import examples

# The same examples on every run of the test command; a developer's own run explores.
settings.register_profile(
    "edgeloop", deadline=None, derandomize=os.environ.get("CI") == "true", max_examples=examples(100)
)
settings.load_profile("edgeloop")


# Where single tests train, compile or start several processes.
LONG = (
    "tests/e2e/",
    "tests/upgrade/",
    "tests/cloud_hub/training/",
    "tests/model_compiler/",
    "tests/cloud_hub/opening/test_serve",
)


LINES = ("alone", "fault")  # marks whose tests `scripts/run-tests` runs by themselves


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-goldens` writes golden files that are missing; review the difference before committing."""
    parser.addoption("--update-goldens", action="store_true", help="write the golden files of tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    """Count what runs, when somebody asked for it."""
    counts.install(config)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A run of one of these marks reads only the files that name it: to import all the others takes half a minute."""
    mark = config.option.markexpr
    if mark not in LINES or not collection_path.match("test_*.py"):
        return None
    return None if f"mark.{mark}" in collection_path.read_text() else True


@pytest.hookimpl(tryfirst=True)  # before any test is deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test says how many examples it tries and how many tests its file has; the longest files come first.

    Workers take whole files (`scripts/run-tests`): a long one that came last would keep one of them busy alone.
    """
    counts.note(items)
    _check_lines(items)
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no command that a test runs read or write the login and the measurements of whoever runs the tests.

    pip goes on with its own settings and files.
    """
    home = tmp_path_factory.mktemp("home")
    config, cache = (
        Path(os.environ.get(f"XDG_{name}_HOME") or Path.home() / f".{name.lower()}") for name in ("CONFIG", "CACHE")
    )
    with pytest.MonkeyPatch.context() as patch:
        if (config / "pip" / "pip.conf").is_file() and "PIP_CONFIG_FILE" not in os.environ:
            patch.setenv("PIP_CONFIG_FILE", str(config / "pip" / "pip.conf"))
        if "PIP_CACHE_DIR" not in os.environ:
            patch.setenv("PIP_CACHE_DIR", str(cache / "pip"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        yield


def _check_lines(items: list[pytest.Item]) -> None:
    """A test with a mark that its file does not name would run in no part of the test command."""
    marked = {(item.path, mark) for item in items for mark in LINES if item.get_closest_marker(mark)}
    for path, mark in marked:
        if f"mark.{mark}" not in path.read_text():
            raise pytest.UsageError(f"{path}: its tests have the mark {mark}, which their own file must name")


def pytest_runtest_setup() -> None:
    """Each test exports models with what those before it have had parsed."""
    exporting.remember_translations()


@pytest.fixture(scope="module", autouse=True)
def _settled_heap() -> None:
    """Let the collector look at what a module's tests make, and not at the million objects of torch, JAX and pytest.

    An agent collects when it has swapped a model, which takes a quarter of a second with all of them in sight.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """At its end the interpreter takes everything down."""
    gc.unfreeze()
