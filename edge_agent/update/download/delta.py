"""A blob from a patch and a held blob, in bounded memory; see `fleet.protocol.delta`.

A patch is a hint that nobody signed: the file that it makes is hashed while it is written, and with any other hash,
or any other trouble with the patch itself, it is thrown away and the whole file is fetched instead. One that merely
breaks off is resumed by range, as a file is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from edge_agent.errors import DeltaError, DiskFullError, FetchError, UnreachableError
from edge_agent.ports import HubStreams, Stream
from edge_agent.update.disk.store import Store
from edge_agent.update.download.fetch import Progress
from edge_agent.update.download.throttle import paced
from edge_agent.update.download.transfer import Budgeted, Transfer
from fleet.protocol import delta
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob


def fetch_delta(
    hub: HubStreams,
    store: Store,
    blob: Blob,
    held: str,
    transfer: Transfer,
    *,
    beside: int = 0,
    apply_s: float = math.inf,
) -> None:
    """Fetch the patch from the blob `held` to `blob` and apply it; `Store.accept` then finds a finished download.

    `beside` are bytes of disk that others will take meanwhile. `apply_s`, in seconds of the transfer's clock, bounds
    the applying: it cannot be resumed, so what does not end within a look would begin anew in each.

    Args:
        hub: serves the patch.
        store: holds the old blob and takes the new one.
        blob: the one to make.
        held: the hash of the old blob.
        transfer: its pace, progress and clock.
        beside: bytes of disk that others will take meanwhile.
        apply_s: seconds of the transfer's clock that applying may take.

    Raises:
        DeltaError: there is no patch, it saves nothing, or it does not make the blob, and nothing is left of it; or
            nothing came.
        UnreachableError, FetchError: it broke off, or the budget is spent. What came is kept and resumed.
    """
    patch, now = _Patch(store, blob, held), transfer.now
    try:
        store.check_room(2 * blob.size, beside=beside)  # at most the patch and what it makes, beside what is here
        if not patch.whole:
            transfer.budget.check()
            with hub.stream("GET", patch.path, headers=patch.rest, timeout=transfer.gap_timeout_s) as answer:
                patch.begin(answer)
                pieces = paced(answer.read1, transfer.pace, subject=f"delta to {blob.sha256[:12]}", now=now)
                patch.grow(pieces, transfer.progress, transfer.budget)
        apply(store, blob, held, patch.file, until=now() + apply_s, now=now)
    except (UnreachableError, FetchError) as error:
        if patch.came or error.reason == "budget-spent":
            raise
        raise DeltaError(f"nothing comes of the delta from {held[:12]}: {error}", subject=blob.sha256) from error
    except DeltaError:
        patch.remove()
        raise
    except (DiskFullError, ProtocolError, OSError, ValueError, zstd().ZstdError) as error:
        patch.remove()
        raise DeltaError(f"the delta from {held[:12]} is of no use: {error}", subject=blob.sha256) from error
    patch.remove()


class _Patch:
    """A patch as it comes: `here` of `total` bytes are in `file`, `came` of them now.

    One file per blob: it may hold the beginning of a patch from another held file, which stays until this one comes.
    """

    def __init__(self, store: Store, blob: Blob, held: str) -> None:
        self._store, self._blob, self._held = store, blob, held
        self.file = store.part(blob).with_suffix(".delta")
        self.path = f"/blobs/{blob.sha256}/from/{held}"
        self.here, self.total = self._begun()
        self.came, self._ours = 0, self.here > 0

    @property
    def whole(self) -> bool:
        """True if nothing is missing, as it is when the process ended while the patch was applied."""
        return 0 < self.here == self.total

    @property
    def rest(self) -> dict[str, str]:
        """The headers that ask for what is missing, of this very patch: the hub tags it by both hashes."""
        if not self.here:
            return {}
        return {"Range": f"bytes={self.here}-", "If-Range": f'"{self._blob.sha256}-{self._held}"'}

    def begin(self, answer: Stream) -> None:
        """Find where the answer's bytes belong; raises DeltaError when they are of no use."""
        span = f"bytes {self.here}-{self.total - 1}/{self.total}"
        if answer.status == 200:
            self.here, self.total = 0, int(answer.headers.get("Content-Length") or -1)
        elif answer.status != 206 or not self.here or answer.headers.get("Content-Range") != span:
            raise DeltaError(f"no delta from {self._held[:12]}: HTTP {answer.status}", subject=self._blob.sha256)
        part = self._store.part(self._blob)
        missing = self._blob.size - (part.stat().st_size if part.exists() else 0)
        if not 0 < self.total - self.here < missing:
            raise DeltaError(f"the delta has {self.total} bytes, {missing} are missing", subject=self._blob.sha256)

    def grow(self, pieces: Iterator[bytes], progress: Progress, budget: Budgeted) -> None:
        """Write the answer's bytes; raises FetchError when there are too few, DeltaError when there are too many."""
        with self.file.open("r+b" if self.here else "wb") as file:
            self._ours = True
            file.seek(self.here)
            for piece in pieces:
                self.here += len(piece)
                if self.here > self.total:
                    raise DeltaError("the delta is longer than was announced", subject=self._blob.sha256)
                self._store.check_room(len(piece))
                file.write(piece)
                file.flush()  # what arrived counts after a kill
                self.came += len(piece)
                progress(len(piece))
                with contextlib.suppress(FetchError) if self.here == self.total else contextlib.nullcontext():
                    budget.spend(len(piece))
        if self.here < self.total:
            raise FetchError(f"the delta ended after {self.here} of {self.total} bytes", subject=self._blob.sha256)

    def remove(self) -> None:
        """Leave nothing of it."""
        if self._ours:
            self.file.unlink(missing_ok=True)

    def _begun(self) -> tuple[int, int]:
        """Count the bytes of this patch that are here, and those that it has; (0, 0) when it cannot be resumed."""
        try:
            with self.file.open("rb") as file:
                header = delta.decode_header(file.read(delta.HEADER_SIZE))
                size = os.fstat(file.fileno()).st_size
        except (OSError, ProtocolError):
            return 0, 0
        fits = (header.old, header.new) == (self._held, self._blob.sha256) and size <= header.total
        return (size, header.total) if fits else (0, 0)


def apply(
    store: Store,
    blob: Blob,
    held: str,
    patch: Path,
    *,
    until: float = math.inf,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Make `blob`'s download from a held blob and a patch file; what was downloaded of it before gives way.

    Args:
        store: holds the old blob and takes the new one.
        blob: the one to make.
        held: the hash of the old blob.
        patch: the file that came.
        until: a moment of the clock `now`.
        now: seconds that only grow.

    Raises:
        DeltaError: it is for other files, does not make the blob, or not `until` then, in seconds on the clock `now`.
        ProtocolError, ZstdError: it is damaged.
    """
    draft = store.part(blob).with_suffix(".draft")
    with contextlib.ExitStack() as opened:
        file, old = (opened.enter_context(path.open("rb")) for path in (patch, store.blobs / held))
        header = delta.decode_header(file.read(delta.HEADER_SIZE), total=patch.stat().st_size)
        if (header.old, header.new, header.new_size) != (held, blob.sha256, blob.size):
            raise DeltaError("the delta is for other files", subject=blob.sha256)
        readers, start = [], delta.HEADER_SIZE
        for length in header.sections:
            readers.append(_section(opened.enter_context(patch.open("rb")), start, length))
            start += length
        digest = hashlib.sha256()
        try:
            with draft.open("wb") as out:
                for piece in delta.apply(header, lambda at, count: os.pread(old.fileno(), count, at), *readers):
                    digest.update(piece)
                    store.check_room(len(piece))
                    out.write(piece)
                    if now() > until:  # a few bytes of a patch may ask for hours of work
                        raise DeltaError("applying the delta takes too long", subject=blob.sha256)
            if digest.hexdigest() != blob.sha256:
                raise DeltaError("the delta makes other bytes than were signed", subject=blob.sha256)
            draft.replace(store.part(blob))  # synced when it is accepted
        finally:
            draft.unlink(missing_ok=True)


def made_of(old: bytes, patch: bytes, blob: Blob) -> bytes:
    """The bytes of a small `blob` in memory; whether they are, the caller's hash must tell.

    Args:
        old: the held bytes.
        patch: as it came.
        blob: the one to make.

    Raises:
        DeltaError: the patch makes another file. ProtocolError, ZstdError, EOFError: it is damaged.
    """
    header = delta.decode_header(patch, total=len(patch))
    if (header.new, header.new_size) != (blob.sha256, blob.size):
        raise DeltaError("the delta is for other files", subject=blob.sha256)
    readers, start = [], delta.HEADER_SIZE
    for length in header.sections:
        readers.append(_section(io.BytesIO(patch), start, length))
        start += length
    return b"".join(delta.apply(header, lambda at, count: old[at : at + count], *readers))


class _Span:
    """A part of a file as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._left = file, length
        file.seek(start)

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        return data


def _section(file: IO[bytes], start: int, length: int) -> delta.Read:
    """A section's content; its window is bounded, whatever the patch asks for."""
    if not length:
        return lambda count: b""
    library = zstd()
    span = _Span(file, start, length)
    decompressor = library.ZstdDecompressor(options={library.DecompressionParameter.window_log_max: delta.WINDOW_LOG})

    def read(count: int) -> bytes:
        while not decompressor.eof:
            fed = span.read(delta.CHUNK) if decompressor.needs_input else b""
            if decompressor.needs_input and not fed:
                return b""
            data: bytes = decompressor.decompress(fed, max_length=count)
            if data:
                return data
        return b""

    return read


def zstd() -> Any:
    """Zstandard, of the standard library from Python 3.14 on; loaded when a delta comes."""
    if sys.version_info >= (3, 14):
        from compression import zstd as library  # type: ignore[import-not-found]
    else:
        from backports import zstd as library
    return library
