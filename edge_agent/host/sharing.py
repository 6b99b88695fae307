"""The files that applications of this device may read: the group `edgeloop`, where the device has one.

A group that is set on the agent's folder with the set-group-ID bit is the group of everything made in it later:
releases, `state.json`, and the sockets that lie there. Keys are readable for their owner alone, whatever their group.
"""

from __future__ import annotations

import grp
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

GROUP = "edgeloop"
_FOLDER = stat.S_ISGID | stat.S_IRGRP | stat.S_IXGRP

log = logging.getLogger(__name__)


def share_store(directory: Path, group: str = GROUP) -> bool:
    """Give the group what is in the store now and what will be; false, with one line in the log, where it cannot be.

    A device without such a group keeps its files to the agent's user and that user's own group.
    """
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        return False
    try:
        for path in _shared(directory):
            _give(path, number)
    except OSError as error:
        log.warning("%s is not shared with the group %s: %s; add the agent's user to it", directory, group, error)
        return False
    return True


def _shared(directory: Path) -> Iterator[Path]:
    yield directory
    for path in (directory / "state.json", directory / "blobs", directory / "releases"):
        if path.exists():
            yield path
            yield from path.iterdir() if path.is_dir() else ()


def _give(path: Path, number: int) -> None:
    """Nothing is written where all is well already."""
    found = path.stat()
    if found.st_gid != number:
        os.chown(path, -1, number)  # takes the bits away: they come after it
    if stat.S_ISDIR(found.st_mode) and found.st_mode & _FOLDER != _FOLDER:
        path.chmod(stat.S_IMODE(found.st_mode) | _FOLDER)
