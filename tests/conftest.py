"""Options and settings that all tests share."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

from tests.support import counts
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-goldens` writes golden files that are missing; review the difference before committing."""
    parser.addoption("--update-goldens", action="store_true", help="write the golden files of tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    """Count what runs, when somebody asked for it."""
    counts.install(config)


@pytest.hookimpl(tryfirst=True)  # before any test is deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test says how many examples it tries and how many tests its file has; the longest files come first.

    Workers take whole files (`scripts/run-tests`): a long one that came last would keep one of them busy alone.
    """
    counts.note(items)
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


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
