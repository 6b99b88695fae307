"""One owner per hub directory: a kernel lock that ends with the process that holds it.

`serve` holds it as long as it runs; `init` and `keys rotate`, which write the directory's keys, while they do.
`worker` and `keys renew` write nothing there but what the database and the object store lock by themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from cloud_hub.errors import ConflictError

NAME = "hub.lock"


class Owner(Struct, frozen=True):
    """The lock file's record of its holder."""

    pid: int
    command: str


@contextlib.contextmanager
def hub_lock(directory: Path, command: str) -> Iterator[None]:
    """Hold the lock of the hub in `directory` for `cloud-hub COMMAND`.

    Raises:
        ConflictError: another process holds it; the message names its number. Nothing was touched.
        OSError: the directory cannot be written.
    """
    descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"{_name(descriptor)} owns the hub in {directory}",
                subject=str(directory),
                hint="end it first, or give this hub a directory of its own",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(Owner(os.getpid(), command)), 0)
        yield
    finally:
        os.close(descriptor)


def _name(descriptor: int) -> str:
    try:
        owner = msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Owner)
    except (msgspec.DecodeError, OSError):  # it has taken the lock, and has not written yet
        return "another process"
    return f"process {owner.pid} (cloud-hub {owner.command})"
