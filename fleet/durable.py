"""Bytes and names that survive a power loss."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Put a file's bytes, or the names in a folder, on the disk.

    A rename, and the name of a new file, are durable once the folder is synced.

    Raises:
        OSError: there is no such path, or the disk refuses. What was written before may be lost, and a second call
            proves nothing: the kernel takes the pages for clean.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
