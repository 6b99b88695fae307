"""`init` makes a hub or nothing: what it made is removed again when it fails."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from cloud_hub.errors import HubError
from cloud_hub.ports import Objects


@contextlib.contextmanager
def all_or_nothing(*directories: Path, keep: tuple[str, ...] = ()) -> Iterator[None]:
    """Make `directories`; when the block fails, remove from them what was not there before, and themselves.

    `keep` are patterns of names that stay all the same: what was moved aside and lies nowhere else.
    """
    made = [folder for directory in directories for folder in (directory, *directory.parents) if not folder.exists()]
    before = {directory: _entries(directory) for directory in directories}
    try:
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for directory, known in before.items():
            for path in _entries(directory) - known:
                if not any(path.match(pattern) for pattern in keep):
                    _remove(path)
        for folder in sorted(made, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # not made yet, or somebody else's file lies there
                folder.rmdir()
        raise


@contextlib.contextmanager
def emptied_again(objects: Objects, prefix: str) -> Iterator[None]:
    """Delete everything that the block has put under `prefix`, which was empty before, if it fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(HubError):  # a store that is away keeps it, and the next `init` says so
            for found in list(objects.list(prefix)):
                objects.delete(found.key)
        raise


def _entries(directory: Path) -> set[Path]:
    return set(directory.iterdir()) if directory.is_dir() else set()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
