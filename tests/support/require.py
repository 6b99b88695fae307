"""System components that some tests need: skipped with a reason where absent, a failure in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def require(binary: str, package: str, *folders: Path) -> Path:
    """The path of `binary`, looked up in `folders` and then on PATH.

    Without it the test is skipped and told how to install it; with CI=true it fails.
    """
    for folder in folders:
        if (folder / binary).exists():
            return folder / binary
    found = shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is not None:
        return Path(found)
    reason = f"{binary} is not installed; run: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
