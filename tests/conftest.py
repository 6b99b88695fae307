"""Options and settings that all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples on every run of the test command; a developer's own run explores.
settings.register_profile("edgeloop", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("edgeloop")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-goldens` writes golden files that are missing; review the difference before committing."""
    parser.addoption("--update-goldens", action="store_true", help="write the golden files of tests/golden")
