"""Work on a Ray cluster, in a process that is connected to one; see `execution`. Ray is imported here alone.

A task carries a piece of work's files to a node and runs it there in a child, under the limits that hold here, too
(`node`). A node that is lost begins again on another with what had come back by then. Ray's own protocol is pickle:
the cluster is inside of the hub's border (ADR 0038).
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from cloud_hub.execution import node
from cloud_hub.execution.log import append_log
from cloud_hub.execution.messages import Failed, WorkDone, WorkProgress, failure_of
from cloud_hub.execution.node import Begun, Heard, Order, Printed
from cloud_hub.execution.port import (
    LOG,
    ExecutionError,
    Limits,
    NoClusterError,
    Progress,
    Work,
    WorkDiedError,
)
from cloud_hub.execution.shipping import HeldFiles, Incoming, Outgoing, Piece

TRIES = 3  # nodes that one piece of work may lose
AHEAD = 4  # pieces that a node may be ahead of who takes them
LISTEN_S, CLOSING_S, KNOCK_S = 0.25, 30.0, 2.0


class Reservation(Struct, frozen=True, kw_only=True):
    """The share of a node that a piece of work reserves, and its seconds of patience; files come back every
    `every_s`."""

    cpus: float = 1.0
    gpus: float = 0.0
    wait_s: float = 3600.0
    every_s: float = 5.0


class Driven(Struct, frozen=True, kw_only=True):
    """A piece of work as `drive` takes it."""

    address: str
    asked: Reservation
    limits: Limits
    entry: str
    given: dict[str, Any]
    beside: dict[str, str]


class _LostError(Exception):
    """The node is gone, or its part of Ray."""


class RayExecutor:
    """Implements `Executor` on the cluster that this process is connected to (`connected`)."""

    def __init__(
        self,
        limits: Limits | None = None,
        asked: Reservation | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._asked, self._clock = limits or Limits(), asked or Reservation(), clock

    def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        """See Executor."""
        work.folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, TRIES + 1):
            try:
                return self._tried(work, progress, check)
            except _LostError as error:
                lost = str(error).partition("\n")[0]
                progress(f"lost the node, {number} of {TRIES} tries: {lost}", 0.0)
        raise WorkDiedError(
            f"{TRIES} nodes were lost under the work, the last one so: {lost}",
            hint="see `ray status` and the logs of the nodes; one that runs out of memory is ended by Ray",
        )

    def _tried(self, work: Work, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        stream = self._sent(work, check)
        incoming = Incoming(work.folder, self._limits.disk_bytes)
        progress(f"waiting for a node with {self._wanted()}", 0.0)
        last: WorkDone | Failed | None = None
        try:
            for heard in self._heard(stream, check):
                if isinstance(heard, WorkProgress):
                    progress(heard.step, heard.share)
                elif isinstance(heard, Begun):
                    _agree(heard)
                    progress(f"sending the work to node {heard.node}", 0.0)
                elif isinstance(heard, Printed):
                    append_log(work.folder / LOG, heard.data)
                elif isinstance(heard, Piece):
                    incoming.take(heard)
                elif isinstance(heard, HeldFiles):
                    incoming.keep(heard)
                else:
                    last = heard
                    break
        finally:
            _end(stream, self._clock, cancel=last is None)
        if isinstance(last, WorkDone):
            return last.result
        raise _LostError("the node fell silent") if last is None else last.error()

    def _sent(self, work: Work, check: Callable[[], None]) -> Any:
        """The task, with the files that it needs in Ray's store."""
        import ray

        limits, asked = self._limits, self._asked
        order = Order(
            entry=work.entry,
            arguments=dict(work.arguments),
            beside=list(work.beside),
            wall_s=limits.wall_s,
            memory_bytes=limits.memory_bytes,
            disk_bytes=limits.disk_bytes,
            spare_disk_bytes=limits.spare_disk_bytes,
            every_s=asked.every_s,
        )
        pieces = []
        folders = {f"{node.WORK}/": work.folder}
        folders |= {f"{node.BESIDE}/{name}/": path for name, path in work.beside.items()}
        for under, folder in folders.items():
            for piece in Outgoing(folder, under).changed():
                check()
                pieces.append(ray.put(msgspec.msgpack.encode(piece)))
        task: Any = ray.remote(node.run)
        memory = {} if limits.memory_bytes is None else {"memory": limits.memory_bytes}
        return task.options(
            num_cpus=asked.cpus,
            num_gpus=asked.gpus,
            max_retries=0,
            num_returns="streaming",
            _generator_backpressure_num_objects=AHEAD,
            **memory,
        ).remote(msgspec.msgpack.encode(order), pieces)

    def _heard(self, stream: Any, check: Callable[[], None]) -> Iterator[Heard]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        began, begun = self._clock(), False
        while True:
            ready, _ = ray.wait([stream], timeout=LISTEN_S)
            check()
            if not ready:
                if not begun and self._clock() - began > self._asked.wait_s:
                    raise self._no_room()
                continue
            try:
                data = ray.get(next(stream))
            except StopIteration:
                return
            except RayTaskError as error:
                raise _cannot(error) from error
            except RayError as error:
                raise _LostError(str(error)) from error
            begun = True
            yield msgspec.msgpack.decode(data, type=Heard)

    def _wanted(self) -> str:
        asked, memory = self._asked, self._limits.memory_bytes
        parts = [f"{asked.cpus:g} CPUs", f"{asked.gpus:g} GPUs" if asked.gpus else ""]
        return ", ".join(filter(None, [*parts, f"{memory / 1e6:,.0f} MB of memory" if memory else ""]))

    def _no_room(self) -> NoClusterError:
        import ray

        nodes = [found["Resources"] for found in ray.nodes() if found["Alive"]]
        largest = [max((found.get(kind, 0.0) for found in nodes), default=0.0) for kind in ("CPU", "GPU")]
        return NoClusterError(
            f"no node of the cluster had room for {self._wanted()} within {self._asked.wait_s:g} s; it has "
            f"{len(nodes)} nodes, the largest with {largest[0]:g} CPUs and {largest[1]:g} GPUs",
            hint="add nodes, or lower worker.ray_cpus, worker.ray_gpus or worker.memory_bytes",
        )


def drive(folder: Path, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Connect to a cluster and run a piece of work on it: the entry of the work of `ClusterExecutor`.

    Args:
        arguments: a `Driven`.

    Returns:
        `{"result": …}`, or `{"failed": …}` (a `Failed`).
    """
    signal.signal(signal.SIGTERM, _leave)  # the worker's way to say that nobody waits any more
    driven = msgspec.convert(arguments, Driven)
    beside = {name: Path(path) for name, path in driven.beside.items()}
    work = Work(driven.entry, folder, driven.given, beside)
    try:
        with connected(driven.address, driven.asked.wait_s, progress):
            executor = RayExecutor(driven.limits, driven.asked)
            return {"result": executor.run(work, progress=progress, check=lambda: None)}
    except ExecutionError as error:
        return {"failed": msgspec.to_builtins(failure_of(error))}


@contextmanager
def connected(
    address: str, wait_s: float, progress: Progress, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Connect this process to the cluster at HOST:PORT for the block. It must be on a machine of the cluster.

    Raises:
        NoClusterError: there is none.
    """
    _await_door(address, wait_s, progress, clock)
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, configure_logging=False)
    except Exception as error:  # Ray raises what it likes, and tells much
        raise NoClusterError(
            f"cannot join the Ray cluster at {address}: {str(error).strip() or type(error).__name__}",
            hint=f"this machine must be of the cluster (`ray start --address={address} --num-cpus=0`), with the same "
            "versions of Python and Ray, and its token where it has one",
        ) from error
    try:
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own in the place of it
        yield
    finally:
        ray.shutdown()


def _leave(number: int, frame: object) -> None:
    """Leave by way of all `finally`, which end what runs on a node."""
    raise SystemExit(128 + number)


def _await_door(address: str, wait_s: float, progress: Progress, clock: Callable[[], float]) -> None:
    """Return when something listens at HOST:PORT: Ray itself would try for minutes, deaf to everything."""
    host, _, port = address.rpartition(":")
    began = clock()
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
            return
        except OSError as error:
            progress(f"waiting for the Ray cluster at {address}", 0.0)
            if clock() - began >= wait_s:
                raise NoClusterError(
                    f"no Ray cluster answers at {address}: {error}",
                    hint="is its head running (`ray status`), and the address that of its GCS, HOST:6379 by default?",
                ) from error
            time.sleep(min(KNOCK_S, wait_s))


def _agree(begun: Begun) -> None:
    if begun.version != node.version():
        raise NoClusterError(
            f"node {begun.node} has edgeloop {begun.version}, this worker {node.version()}",
            hint="install the same version on all nodes",
        )


def _cannot(error: Exception) -> NoClusterError:
    """Return the error of a node that could not begin, or whose own part failed: not the work's fault."""
    last = next((line for line in reversed(str(error).strip().split("\n")) if line.strip()), type(error).__name__)
    return NoClusterError(
        f"a node of the cluster cannot run the work: {last.strip()}",
        hint='install "edgeloop[hub,train,ray]" on every node, of the version that the worker has; see its disk, too',
    )


def _end(stream: Any, clock: Callable[[], float], *, cancel: bool) -> None:
    """Await the end of the task, which puts away what it has, and end it where it takes too long for that."""
    import ray
    from ray.exceptions import RayError

    deadline = clock() + CLOSING_S
    with contextlib.suppress(StopIteration, RayError, ValueError):
        if cancel:
            ray.cancel(stream)
        while clock() < deadline:
            if ray.wait([stream], timeout=LISTEN_S)[0]:
                ray.get(next(stream))
        ray.cancel(stream, force=True)
