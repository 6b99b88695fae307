"""Work on a node of a Ray cluster: a task that receives its files, runs it in a child, and sends what it makes.

The node has this package, and nothing of the hub's. What goes either way are bytes of msgspec, in pieces of 8 MiB.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from cloud_hub.execution.child import ChildExecutor, usual_memory
from cloud_hub.execution.log import Tail
from cloud_hub.execution.messages import Failed, WorkDone, WorkProgress, failure_of
from cloud_hub.execution.port import LOG, Limits, Work
from cloud_hub.execution.shipping import HeldFiles, Incoming, Outgoing, Piece

WORK, BESIDE = "work", "beside"
PREFIX, LOCK = "edgeloop-work-", "lock"
LISTEN_S = 0.25
UNLOCKED_S = 60.0  # a folder that is this old belongs to nobody when it is not locked


class Order(Struct, frozen=True, kw_only=True):
    """The order to a node; `beside` names further folders that come along; files come back every `every_s`."""

    entry: str
    arguments: dict[str, Any]
    beside: list[str]
    wall_s: float | None
    memory_bytes: int | None
    disk_bytes: int | None
    spare_disk_bytes: int
    every_s: float


class Begun(Struct, frozen=True, kw_only=True, tag="begun"):
    """The node has taken the work; `version` is the package's."""

    node: str
    version: str


class Printed(Struct, frozen=True, kw_only=True, tag="printed"):
    """A part of the work's output."""

    data: bytes


Heard = Begun | WorkProgress | Printed | Piece | HeldFiles | WorkDone | Failed


def version() -> str:
    """Of this package, here."""
    return importlib.metadata.version("edgeloop")


def run(order: bytes, pieces: list[Any]) -> Iterator[bytes]:
    """Do an `Order` with the files of `pieces` (references to pieces in Ray's store); gives a `Heard` each time.

    The last is Done or Failed. Cancelled, it ends the work with all that it has started, and leaves no file.
    """
    import ray

    wanted = msgspec.msgpack.decode(order, type=Order)
    yield msgspec.msgpack.encode(Begun(node=socket.gethostname(), version=version()))
    with _place() as place:
        incoming = Incoming(place)
        for piece in pieces:  # one at a time: the others stay in the store
            incoming.take(msgspec.msgpack.decode(ray.get(piece), type=Piece))
        for heard in _worked(wanted, place):
            yield msgspec.msgpack.encode(heard)


def _worked(order: Order, place: Path) -> Iterator[Heard]:
    folder = place / WORK
    folder.mkdir(exist_ok=True)
    changes, tail = Outgoing(folder), Tail(folder / LOG)
    changes.pass_over()
    said: queue.SimpleQueue[WorkProgress | WorkDone | Failed] = queue.SimpleQueue()
    stop = threading.Event()
    thread = threading.Thread(target=_work, args=(order, place, said, stop))
    thread.start()
    last, looked = None, time.monotonic()
    try:
        while last is None:
            with contextlib.suppress(queue.Empty):
                message = said.get(timeout=LISTEN_S)
                if isinstance(message, WorkProgress):
                    yield message
                else:
                    last = message
            if last is not None or time.monotonic() - looked >= order.every_s:
                if data := tail.more():
                    yield Printed(data=data)
                yield from changes.changed()
                looked = time.monotonic()
        yield changes.held()
        yield last
    finally:
        stop.set()
        thread.join()


class _StoppedError(Exception):
    """Nobody waits for the work any more."""


def _work(
    order: Order, place: Path, said: queue.SimpleQueue[WorkProgress | WorkDone | Failed], stop: threading.Event
) -> None:
    memory = usual_memory() if order.memory_bytes is None else order.memory_bytes
    limits = Limits(order.wall_s, memory, order.disk_bytes, order.spare_disk_bytes)
    beside = {name: place / BESIDE / name for name in order.beside}

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    try:
        for path in beside.values():
            path.mkdir(parents=True, exist_ok=True)
        result = ChildExecutor(limits).run(
            Work(order.entry, place / WORK, order.arguments, beside),
            progress=lambda step, share: said.put(WorkProgress(step=step, share=share)),
            check=check,
        )
        said.put(WorkDone(result=result))
    except _StoppedError:
        return
    except BaseException as error:  # noqa: BLE001 (the boundary of this thread: told to who waits)
        said.put(failure_of(error))


@contextmanager
def _place() -> Iterator[Path]:
    """A folder of this machine's; what a killed one has left goes first."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_left(left)
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    try:
        with (place / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _remove_left(place: Path) -> None:
    """Remove the folder of one that was killed; OSError (BlockingIOError) where it is at work, or another user's."""
    found = place.lstat()
    if found.st_uid != os.getuid() or time.time() - found.st_mtime < UNLOCKED_S:
        return
    with (place / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
