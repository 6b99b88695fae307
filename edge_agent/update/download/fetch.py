"""Blobs by GET /blobs/<sha256>: resumed by range, bounded by the signed size, accepted by hash alone."""

from __future__ import annotations

import os
from collections.abc import Callable

from edge_agent.errors import FetchError
from edge_agent.ports import HubStreams, Stream
from edge_agent.update.disk.store import Store
from edge_agent.update.download.throttle import DownloadPace, paced
from edge_agent.update.rules.hints import answered
from fleet.protocol.bounds import whole_number
from fleet.protocol.manifest import Blob

Progress = Callable[[int], None]  # bytes that came just now


def fetch_blob(
    hub: HubStreams,
    store: Store,
    blob: Blob,
    *,
    pace: DownloadPace,
    progress: Progress,
    gap_timeout_s: float = 30.0,
    tagged: bool = True,
) -> None:
    """Fetch what is missing of a blob into its `.part` file; `Store.accept` then hashes it.

    `tagged`: the server's entity tag is the blob's hash, as a hub's is, so that `If-Range` asks for the rest of this
    very file. Web servers and CDNs have tags of their own, and would send the whole file again (RFC 9110, 13.1.5).

    Args:
        hub: serves it.
        store: holds what came before.
        blob: the one to fetch, with its size and hash.
        pace: bounds the bytes per second.
        progress: is told of every piece.
        gap_timeout_s: seconds of silence after which the connection is given up.
        tagged: the server's entity tag is the blob's hash.

    Raises:
        FetchError: the server answers something else, too slowly, or more than was signed.
        UnreachableError: the connection broke off or the server is busy; what arrived is kept and resumed.
    """
    part = store.part(blob)
    offset = part.stat().st_size if part.exists() else 0
    if offset > blob.size:
        part.unlink()
        offset = 0
    if store.has(blob) or (offset == blob.size and part.exists()):
        return
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and tagged:
        headers["If-Range"] = f'"{blob.sha256}"'
    with hub.stream("GET", f"/blobs/{blob.sha256}", headers=headers, timeout=gap_timeout_s) as answer:
        _write(answer, store, blob, _start(answer, blob, offset), offset, pace, progress)


def _start(answer: Stream, blob: Blob, offset: int) -> int:
    """Return the place in the file of the answer's first byte."""
    if answer.status == 200:
        _check_whole(answer, blob)
        return 0
    if answer.status == 206 and offset:
        if answer.headers.get("Content-Range", "") == f"bytes {offset}-{blob.size - 1}/{blob.size}":
            return offset
        raise FetchError(f"blob {blob.sha256[:12]}: another range than was asked for", subject=blob.sha256)
    raise answered(answer.status, f"blob {blob.sha256[:12]}: HTTP {answer.status}", blob.sha256)


def _check_whole(answer: Stream, blob: Blob) -> None:
    """Refuse what is plainly another file, such as a network's login page, before it replaces what is here."""
    announced = whole_number(answer.headers.get("Content-Length", ""))
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise FetchError(
            f"blob {blob.sha256[:12]}: a web page came instead",
            subject=blob.sha256,
            hint="does the network ask for a login?",
        )
    if announced is None or announced == blob.size:
        return
    raise FetchError(
        f"blob {blob.sha256[:12]}: {announced} bytes are announced, {blob.size} were signed",
        subject=blob.sha256,
        reason="too-large" if announced > blob.size else "",
        hint="does the network ask for a login?",
    )


def _write(
    answer: Stream, store: Store, blob: Blob, place: int, here: int, pace: DownloadPace, progress: Progress
) -> None:
    """Append what comes after the first `here` bytes; the answer begins at `place`.

    A server that knows no ranges sends the start once more: it is read and passed over, so that an answer that
    breaks off costs nothing of what is here.
    """
    descriptor = os.open(store.part(blob), os.O_WRONLY | os.O_CREAT, 0o640)
    with os.fdopen(descriptor, "wb") as file:
        file.truncate(here)
        file.seek(here)
        for piece in paced(answer.read1, pace, subject=f"blob {blob.sha256[:12]}"):
            fresh = piece[max(0, here - place) :]
            place += len(piece)
            if place > blob.size:
                file.truncate(here)
                raise FetchError(
                    f"blob {blob.sha256[:12]} is larger than the {blob.size} bytes that were signed",
                    subject=blob.sha256,
                    reason="too-large",
                )
            store.check_room(len(fresh), missing=blob.size - place + len(fresh))  # others write, too
            file.write(fresh)
            file.flush()  # what arrived counts after a kill
            progress(len(piece))
    if place < blob.size:
        raise FetchError(f"blob {blob.sha256[:12]} ended after {place} of {blob.size} bytes", subject=blob.sha256)
