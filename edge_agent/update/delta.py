"""A blob from a patch and a held blob, in bounded memory; see `fleet.protocol.delta`.

A patch is a hint that nobody signed: the file that it makes is hashed while it is written, and with any
other hash, or any trouble at all, it is thrown away and the whole file is fetched instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from msgspec.structs import replace

from edge_agent.errors import DeltaError, DiskFullError, FetchError
from edge_agent.ports import HubStreams
from edge_agent.update.fetch import Progress
from edge_agent.update.pace import Pace, paced
from edge_agent.update.store import Store
from fleet.protocol import delta
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob


def fetch_delta(
    hub: HubStreams,
    store: Store,
    blob: Blob,
    held: str,
    *,
    pace: Pace,
    progress: Progress,
    most: int | None = None,
    beside: int = 0,
    until: float = math.inf,
    now: Callable[[], float] = time.monotonic,
    gap_timeout_s: float = 30.0,
) -> None:
    """Fetch the patch from the blob `held` to `blob` and apply it; `Store.accept` then finds a finished download.

    `most` bounds the patch's bytes; None does not. `beside` are bytes of disk that others will take meanwhile.
    `until`, in seconds on the clock `now`, bounds fetching and applying together: neither can be resumed, so what
    does not end within a look would begin anew in each.

    Raises:
        DeltaError: there is no patch, it saves nothing, or it does not make the blob; nothing is left of it.
        UnreachableError: the connection broke off.
    """
    part, patch = store.part(blob), store.part(blob).with_suffix(".delta")
    missing = blob.size - (part.stat().st_size if part.exists() else 0)
    try:
        store.check_room(2 * blob.size, beside=beside)  # at most the patch and what it makes, beside what is here
        with hub.stream("GET", f"/blobs/{blob.sha256}/from/{held}", timeout=gap_timeout_s) as answer:
            if answer.status != 200:
                raise DeltaError(f"no delta from {held[:12]}: HTTP {answer.status}", subject=blob.sha256)
            announced = int(answer.headers.get("Content-Length") or -1)
            if most is not None and announced > most:  # a patch cannot be resumed tomorrow, a file can
                raise DeltaError(f"the delta has {announced} bytes, today's budget has {most}", subject=blob.sha256)
            if not 0 < announced < missing:
                raise DeltaError(f"the delta has {announced} bytes, {missing} are missing", subject=blob.sha256)
            pace, received = _in_time(pace, announced, until - now(), blob), 0
            with patch.open("wb") as file:
                for piece in paced(answer.read1, pace, subject=f"delta to {blob.sha256[:12]}", now=now):
                    received += len(piece)
                    if received > announced:
                        raise DeltaError("the delta is longer than was announced", subject=blob.sha256)
                    store.check_room(len(piece))
                    file.write(piece)
                    progress(len(piece))
        apply(store, blob, held, patch, until=until, now=now)
    except (FetchError, DiskFullError, ProtocolError, OSError, ValueError, _zstd().ZstdError) as error:
        raise DeltaError(f"the delta from {held[:12]} is of no use: {error}", subject=blob.sha256) from error
    finally:
        patch.unlink(missing_ok=True)


def _in_time(pace: Pace, announced: int, left_s: float, blob: Blob) -> Pace:
    """`pace`, no slower than `announced` bytes in `left_s` need. Raises DeltaError where its own limit is slower."""
    if left_s <= 0 or (pace.max_bytes_per_s and announced > pace.max_bytes_per_s * left_s):
        raise DeltaError(f"the delta's {announced} bytes do not come within {left_s:.0f} s", subject=blob.sha256)
    slowest = max(pace.min_bytes_per_s, announced / left_s)
    return replace(pace, deadline_s=left_s, min_bytes_per_s=slowest)


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
    zstd = _zstd()
    span = _Span(file, start, length)
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: delta.WINDOW_LOG})

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


def _zstd() -> Any:
    """Zstandard, of the standard library from Python 3.14 on; loaded when a delta comes."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # type: ignore[import-not-found]
    else:
        from backports import zstd
    return zstd
