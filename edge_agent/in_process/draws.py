"""Requests that an application drew from those it answered in its own process, on their way to the agent.

A sketch, a sample or an audit needs the request itself, and records (`records`) only count. So each process
draws uniformly, without knowing the answers, at most `MOST` requests and `BYTES` bytes per `EVERY_S` seconds, whatever
its traffic (reservoir sampling by skips: Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))",
ACM TOMS 1994, algorithm L). Of a batch it takes one random row. Each drawn request says for how many it stands, so
that the agent can keep the channel's shares, and a sketch stays a uniform draw of the window's rows. It is drawn where
nobody samples, too: the hub may ask for samples at any time.

What was drawn goes through one memory file of the process (memfd, passed over `DIR/draws.sock`). The agent empties it
when it has read it. Until then nothing more is sent: a busy agent costs the application one such file and a count.
"""

from __future__ import annotations

import array
import logging
import math
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent.ports import Arrays, InstalledRelease
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import Array
from fleet.protocol.tensors import to_array

log = logging.getLogger(__name__)

SOCKET = "draws.sock"
EVERY_S = 1.0
MOST = 32  # requests of one interval; the agent needs about 2 ms for as many
BYTES = 1 << 20  # of the inputs and outputs of one interval
OVERHEAD = 1 << 10  # bytes of an encoded batch beside its requests
LIMIT = BYTES + (64 << 10)  # bytes of an encoded batch: names, shapes and counts come on top
STALE_S = 10.0  # an agent that has not read for so long was restarted, or hangs
FOR_EVER = 10**15  # requests
SUPPORTED = hasattr(os, "memfd_create")  # a Python built for an old C library lacks it: then nothing is drawn


class DrawnRequest(Struct, frozen=True, kw_only=True):
    """One answered request. It stands for `requests` requests, and its row for `requests` × `rows` rows.

    `rows` is the size of the batch that the row was drawn from; 1 where the release does not count rows, and then the
    tensors are whole.
    """

    model: str
    release: int
    variant: str
    requests: float
    rows: int
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


class DrawnBatch(Struct, frozen=True, kw_only=True):
    """The requests that one process drew in an interval.

    `lost` were drawn before it and not read in time; `too_large` were over `BYTES`, by themselves or together.
    """

    drawn: tuple[msgspec.Raw, ...]
    lost: int = 0
    too_large: int = 0


class Kept(Struct, frozen=True):
    """A drawn request as the application's thread leaves it; the arrays are copies, of `size` bytes together."""

    release: InstalledRelease
    rows: int
    inputs: Arrays
    outputs: Arrays
    size: int


class Interval:
    """A uniform draw of at most `most` of the requests `seen`; `next` is the number of the one that is taken next.

    What is over `BYTES` has a place, None, in `kept`: it is drawn and not sent.
    """

    __slots__ = ("_bytes", "_rng", "_w", "kept", "most", "next", "seen")

    def __init__(self, rng: Callable[[], float]) -> None:
        self.seen = 0
        self.next = 1
        self.most = MOST
        self.kept: list[Kept | None] = []
        self._bytes = 0
        self._rng = rng
        self._w = 1.0

    def take(self, release: InstalledRelease, inputs: Arrays, outputs: Arrays) -> None:
        """Keep the request whose number is `next`, perhaps in another one's place, and say which one is next."""
        rows, inputs, outputs = _cut(release, inputs, outputs, self._rng)
        size = _size(inputs) + _size(outputs)
        if not self.kept:
            self.most = max(1, min(MOST, BYTES // max(1, size)))
        if len(self.kept) < self.most:
            self.kept.append(None)
            place = len(self.kept) - 1
        else:
            place = int(self._rng() * self.most)
            old = self.kept[place]
            self._bytes -= old.size if old is not None else 0
        self.kept[place] = None
        if self._bytes + size <= BYTES:
            self._bytes += size
            self.kept[place] = Kept(release, rows, _copies(inputs), _copies(outputs), size)
        self.next += 1
        if len(self.kept) == self.most:
            self._skip()

    def _skip(self) -> None:
        # 1 - draw lies in (0, 1], so that its logarithm exists.
        self._w *= math.exp(math.log(1.0 - self._rng()) / self.most)
        if 0.0 < self._w < 1.0:
            self.next += int(min(math.log(1.0 - self._rng()) / math.log1p(-self._w), FOR_EVER))
        elif self._w == 0.0:
            self.next += FOR_EVER

    def batch(self, lost: int) -> bytes:
        """The interval as the agent reads it."""
        each = max(self.seen, len(self.kept)) / max(1, len(self.kept))
        parts, size, too_large = [], 0, 0
        for one in self.kept:
            data = _encode(one, each) if one is not None else None
            if data is None or size + len(data) > LIMIT - OVERHEAD:
                too_large += 1
                continue
            size += len(data)
            parts.append(msgspec.Raw(data))
        return encode_msgpack(DrawnBatch(drawn=tuple(parts), lost=lost, too_large=too_large))


class MemoryFile:
    """A file in memory, closed with its last reference."""

    def __init__(self) -> None:
        self.number = os.memfd_create("edgeloop-draws", os.MFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.number)


class Draws:
    """Draws the requests of one process. `offer` is called under the caller's lock, `flush` by one thread at a time.

    `rng` is uniform in [0, 1), `now` monotonic seconds. `lost` counts drawn requests that a busy agent has not read,
    until it is told; without an agent nothing waits and nothing is counted.
    """

    def __init__(
        self,
        directory: Path,
        *,
        rng: Callable[[], float] = random.random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = str(directory / SOCKET)
        self._rng = rng
        self._now = now
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a child process: what was drawn is the parent's to tell, and so is its file."""
        self._file: MemoryFile | None = None
        self._interval = Interval(self._rng)
        self._due = -math.inf
        self._sent_at = -math.inf
        self._sent = 0
        self.lost = 0

    def offer(self, release: InstalledRelease, inputs: Arrays, outputs: Arrays) -> None:
        """See a request that was answered; copies it when it is drawn."""
        interval = self._interval
        interval.seen += 1
        if interval.seen >= interval.next:
            interval.take(release, inputs, outputs)

    def flush(self, *, at_once: bool = False) -> None:
        """Send what an interval has drawn, when it is over."""
        now = self._now()
        if not self._interval.kept or (now < self._due and not at_once):
            return
        self._due = now + EVERY_S
        interval, self._interval = self._interval, Interval(self._rng)
        try:
            self._send(interval, now)
        except BlockingIOError:
            self.lost += len(interval.kept)
        except OSError as error:  # no agent: the answers mattered, the draws do not
            log.debug("%d drawn requests are dropped: %s", len(interval.kept), error)
            self.lost = 0

    def close(self) -> None:
        """Send what was drawn, and give the file back: an agent that has it may still read it."""
        self.flush(at_once=True)
        self._file = None

    def _send(self, interval: Interval, now: float) -> None:
        """Raises BlockingIOError when the agent is busy, another OSError when there is none."""
        file = self._file = self._file or MemoryFile()
        if os.fstat(file.number).st_size:
            if now - self._sent_at < STALE_S:
                raise BlockingIOError
            self.lost += self._sent
            os.ftruncate(file.number, 0)
        try:
            os.pwrite(file.number, interval.batch(self.lost), 0)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.number]))]
                sender.sendmsg([b"d"], rights, 0, self._address)
        except OSError:
            os.ftruncate(file.number, 0)
            raise
        self._sent_at, self._sent, self.lost = now, len(interval.kept), 0


def _cut(
    release: InstalledRelease, inputs: Arrays, outputs: Arrays, rng: Callable[[], float]
) -> tuple[int, Arrays, Arrays]:
    """One random row of every tensor, where all count the same rows first, and of how many; else 1 and the whole."""
    tensors = (*release.manifest.inputs, *release.manifest.outputs)
    sizes = {found.shape[:1] for found in (*inputs.values(), *outputs.values())}
    if len(sizes) == 1 and all(tensor.shape[:1] == (-1,) for tensor in tensors):
        ((rows,),) = sizes
        row = int(rng() * rows)
        return rows, *({name: found[row : row + 1] for name, found in all_.items()} for all_ in (inputs, outputs))
    return 1, inputs, outputs


def _copies(arrays: Arrays) -> Arrays:
    return {name: found.copy() for name, found in arrays.items()}


def _size(arrays: Arrays) -> int:
    return sum(
        sum(map(len, found.flat)) + 4 * found.size if found.dtype.kind == "O" else found.nbytes
        for found in arrays.values()
    )


def _encode(one: Kept, requests: float) -> bytes | None:
    """None where the protocol has no such array."""
    try:
        return encode_msgpack(
            DrawnRequest(
                model=one.release.model,
                release=one.release.number,
                variant=one.release.variant.name,
                requests=requests,
                rows=one.rows,
                inputs=tuple(to_array(name, found) for name, found in one.inputs.items()),
                outputs=tuple(to_array(name, found) for name, found in one.outputs.items()),
            )
        )
    except ProtocolError as error:
        log.debug("a drawn request is dropped: %s", error)
        return None
