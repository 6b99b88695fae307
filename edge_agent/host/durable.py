"""Files that survive power loss: written beside, synced, renamed, and the folder synced."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from fleet.durable import sync

_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{8}")


def write_durably(path: Path, data: bytes, *, mode: int = 0o640) -> None:
    """Replace `path` by `data`, all or nothing; on return it is on the disk.

    Args:
        path: of the file; its folder is there.
        data: the new content.
        mode: of the file.

    Raises:
        OSError: the disk refuses; the file is the old one or the new one, whole.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sweep_drafts(*folders: Path, spare: str = "") -> None:
    """Remove what kills inside `write_durably` left in `folders`, but no draft of a file `spare`.

    Only for who alone writes there. It never fails: a disk that refuses keeps its drafts.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                named = _DRAFT.fullmatch(path.name)
                if named is not None and named[1] != spare:
                    path.unlink(missing_ok=True)


def make_folder(path: Path, *, mode: int = 0o750) -> None:
    """Make `path` and what is missing above it; on return all of it is on the disk, also what an earlier try made."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(new):
        folder.mkdir(mode=mode, exist_ok=True)
    for folder in dict.fromkeys((path.parent, path.parent.parent, *(folder.parent for folder in new))):
        with contextlib.suppress(PermissionError):  # one that others made, and keep for themselves
            sync(folder)
