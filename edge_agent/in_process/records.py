"""Records of in-process requests on their way to the agent: in batches, and never in the way of a request.

`Outbox.put` appends to a list in memory. A daemon thread sends what has gathered after `FLUSH_S` seconds, or sooner
when there is a full batch, a failure or a refusal; it sleeps without a timer where nothing is asked. One datagram
holds up to `BATCH` records as a MessagePack array; an agent takes a lone record, as 0.1 sent them, just as well.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections import deque
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from edge_agent.in_process.draws import Draws
from edge_agent.ports import InstalledRelease
from edge_agent.serving.scores import PendingScores, score_all
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import RefusalError

log = logging.getLogger(__name__)

SOCKET = "local.sock"
RECORD_LIMIT = 16 << 10  # bytes of one record
DATAGRAM_LIMIT = 64 << 10  # bytes of a batch; Linux lets a datagram have 200 KiB
BATCH = 256  # records; the agent counts as many in about 2 ms, between two requests of others
WAITING = 8192  # records that wait for an agent which is busy; what comes then is lost, and counted
FLUSH_S = 0.2  # the longest that a record waits
QUIET = 25  # flushes with nothing to send before the thread sleeps until it is woken
DETAIL_LIMIT = 200  # characters


class LocalRecord(Struct, frozen=True, kw_only=True):
    """One in-process request, for the agent's windows.

    `refused` is why the release did not take it (`errors.REFUSALS`), `detail` that in words; `newly`: the release
    before it would have. `tensor` and `place` are where NaN or infinity was.
    """

    source: Literal["local"] = "local"
    model: str
    release: int
    variant: str
    latency_s: float
    failed: bool = False
    confidence: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()
    refused: str = ""
    newly: bool = False
    detail: str = ""
    tensor: str = ""
    place: int = -1


class Entry(NamedTuple):
    """One request as the application's thread leaves it; `why` is the refusal, `scores` None without an answer."""

    release: InstalledRelease
    latency_s: float
    scores: PendingScores | None = None
    failed: bool = False
    why: RefusalError | None = None
    newly: bool = False

    def record(self) -> LocalRecord:
        """The entry as the agent reads it."""
        found = self.scores.get() if self.scores is not None else None
        return LocalRecord(
            model=self.release.model,
            release=self.release.number,
            variant=self.release.variant.name,
            latency_s=self.latency_s,
            failed=self.failed,
            confidence=found.confidence if found is not None else (),
            classes=found.classes if found is not None else (),
            values=found.values if found is not None else (),
            refused=self.why.word if self.why is not None else "",
            newly=self.newly,
            detail=str(self.why)[:DETAIL_LIMIT] if self.why is not None else "",
            tensor=self.why.tensor if self.why is not None else "",
            place=self.why.place if self.why is not None else -1,
        )


class Outbox:
    """The records that one process sends to the agent of `directory`; `put` may be called from several threads.

    `lost` counts records for which there was no room. Without an agent nothing waits and nothing is counted.
    """

    def __init__(self, directory: Path, draws: Draws) -> None:
        """`draws` are flushed with the records, after them: the agent then knows of the release's window."""
        self._draws = draws
        self._address = str(directory / SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._closed = False
        self.lost = 0
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a child process: what waits is the parent's to tell, and its thread is not here."""
        self._draws.after_fork()
        self._entries: deque[Entry] = deque()
        self._thread: threading.Thread | None = None
        self._asleep = True
        self._wake = threading.Event()
        self._starting = threading.Lock()
        # A garbage collection in the middle of a flush may close this very outbox, hence reentrant.
        self._sending = threading.RLock()

    def put(self, entry: Entry, *, soon: bool = False) -> None:
        """Take an entry; never blocks. `soon`: do not wait for more."""
        count = len(self._entries)
        if count >= WAITING:
            self.lost += 1
            return
        self._entries.append(entry)
        if soon or self._asleep or count % BATCH == BATCH - 1:
            self._rouse()

    def flush(self) -> None:
        """Send what has gathered; what a busy agent does not take stays for the next time."""
        with self._sending:
            while self._entries and self._send(self._take()):
                pass
            self._draws.flush()

    def close(self) -> None:
        """Send what has gathered, and end the thread."""
        if not self._closed:
            self._closed = True
            self._wake.set()
            self.flush()
            with self._sending:
                self._draws.close()
            self._socket.close()

    def _rouse(self) -> None:
        if self._thread is None:
            with self._starting:
                try:
                    if self._thread is None and not self._closed:
                        thread = threading.Thread(target=self._run, name="edgeloop-records", daemon=True)
                        thread.start()
                        self._thread = thread
                except RuntimeError:  # the interpreter is about to end, or the process may have no more threads
                    self.flush()
                    return
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._asleep = True  # before the look: an entry that is put after it wakes this thread
            if not self._entries:
                self._wake.wait()
            self._asleep, quiet = False, 0
            while quiet < QUIET and not self._closed:
                self._wake.clear()
                self.flush()
                self._wake.wait(FLUSH_S)
                quiet = 0 if self._entries else quiet + 1

    def _take(self) -> list[Entry]:
        taken: list[Entry] = []
        with contextlib.suppress(IndexError):  # another thread may have taken the last one
            while len(taken) < BATCH:
                taken.append(self._entries.popleft())
        return taken

    def _send(self, entries: list[Entry]) -> bool:
        """Return whether more may be sent now."""
        score_all([entry.scores for entry in entries if entry.scores is not None])
        try:
            for data in _datagrams([entry.record() for entry in entries]):
                self._socket.sendto(data, self._address)
        except BlockingIOError:
            if not self._closed:
                self._entries.extendleft(reversed(entries))
            return False
        except OSError as error:  # no agent: the answer mattered, the record does not
            log.debug("%d local records are dropped: %s", len(entries), error)
        return True


def _datagrams(records: list[LocalRecord]) -> list[bytes]:
    """The records as MessagePack arrays, each within the limit."""
    data = encode_msgpack(records)
    if len(data) <= DATAGRAM_LIMIT:
        return [data] if records else []
    if len(records) > 1:
        half = len(records) // 2
        return _datagrams(records[:half]) + _datagrams(records[half:])
    return _datagrams(
        [replace(records[0], confidence=(), classes=(), values=())]
    )  # a very large batch: its scores stay out
