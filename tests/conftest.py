"""Options and settings that all tests share."""

from __future__ import annotations

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-goldens` writes golden files that are missing; review the difference before committing."""
    parser.addoption("--update-goldens", action="store_true", help="write the golden files of tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    """Count what runs, when somebody asked for it."""
    counts.install(config)


@pytest.hookimpl(tryfirst=True)  # before any test is deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test says how many examples it tries and how many tests its file has."""
    counts.note(items)
