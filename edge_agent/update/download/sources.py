"""The sources of blobs: the operator's mirrors in their order, then the hub.

A mirror is trusted with nothing: its bytes count by their hash alone, it is told no token, and it is named by
the device's own configuration, never by the network. A mirror that is away, lacks the file or has another one
costs a look at the next source; what arrived whole pieces of is resumed there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3
from msgspec import Struct

from edge_agent.errors import AgentError, CorruptBlobError, FetchError, UnreachableError
from edge_agent.identity.pool import pool_manager
from edge_agent.ports import HubStreams, Stream
from edge_agent.update.disk.store import Store
from edge_agent.update.download.fetch import Progress, fetch_blob
from edge_agent.update.download.transfer import Transfer
from fleet.protocol.manifest import Blob

_BLOB = re.compile(r"/blobs/([0-9a-f]{64})")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-")

log = logging.getLogger(__name__)


class Source(Struct, frozen=True, kw_only=True):
    """A place to fetch from. `metered`: its bytes count against the day's budget, as a folder's do not.

    `tagged`: its entity tags are the blobs' hashes.
    """

    name: str
    streams: HubStreams
    metered: bool = True
    tagged: bool = False


class Sources:
    """An ordered list of sources for one cycle; remembers which one had a wrong file."""

    def __init__(self, mirrors: Sequence[Source], hub: HubStreams) -> None:
        self._mirrors, self._hub = tuple(mirrors), Source(name="the hub", streams=hub, tagged=True)
        self._wrong: set[tuple[str, str]] = set()

    def fetch(self, store: Store, blob: Blob, transfer: Transfer) -> None:
        """Fetch a blob into the store's download, or, where another origin had a part in it, into the store itself.

        Args:
            store: the device's blobs.
            blob: its signed hash and size.
            transfer: pace, budget and clock of this step.

        Raises:
            FetchError, UnreachableError, DeniedError: the error of the last source; the bytes that arrived are kept.
            CorruptBlobError: the last source has another file.
            OSError: this device's own disk.
        """
        if store.has(blob):
            return
        if not self._mirrors:
            # The start of a file may have come, in an earlier look, from somebody in the hub's place: hashed here, a
            # wrong one costs this look another fetch, and not the next look.
            resumed = store.part(blob).exists() and store.part(blob).stat().st_size > 0
            fetch = self._whole if resumed else _fetch
            fetch(self._hub, store, blob, transfer)
            return
        trouble: AgentError | None = None
        for source in (*self._mirrors, self._hub):
            if (source.name, blob.sha256) in self._wrong:
                continue
            try:
                self._whole(source, store, blob, transfer)
                return
            except (FetchError, UnreachableError, CorruptBlobError) as error:
                log.info("%s: blob %s: %s", source.name, blob.sha256[:12], error)
                trouble = error
        assert trouble is not None  # the hub is asked in every cycle unless its file was wrong
        raise trouble

    def free(self, blob: Blob) -> bool:
        """Return whether a source that costs nothing has a file of that name, so that no patch need be paid for."""
        for source in self._mirrors:
            if source.metered or (source.name, blob.sha256) in self._wrong:
                continue
            with contextlib.suppress(UnreachableError), source.streams.stream("GET", f"/blobs/{blob.sha256}") as found:
                if found.status == 200:
                    return True
        return False

    def _whole(self, source: Source, store: Store, blob: Blob, transfer: Transfer) -> None:
        """Fetch and hash. Bytes of several origins that do not fit are thrown away, and this source asked for
        all of them: else one that sends half a wrong file would block every other."""
        while True:
            part = store.part(blob)
            alone = not part.exists() or part.stat().st_size == 0
            _fetch(source, store, blob, transfer)
            try:
                store.accept(blob)
                return
            except CorruptBlobError:
                if alone:
                    if source is not self._hub:
                        self._wrong.add((source.name, blob.sha256))
                    raise
                log.info("blob %s: the parts do not fit, %s is asked for all of it", blob.sha256[:12], source.name)


def _fetch(source: Source, store: Store, blob: Blob, transfer: Transfer) -> None:
    def count(received: int) -> None:
        transfer.progress(received)
        transfer.budget.spend(received)

    def fetch(counting: Progress) -> None:
        fetch_blob(
            source.streams,
            store,
            blob,
            pace=transfer.pace,
            progress=counting,
            gap_timeout_s=transfer.gap_timeout_s,
            tagged=source.tagged,
        )

    if not source.metered:
        fetch(lambda received: None)
        return
    part = store.part(blob)
    if not part.exists() or part.stat().st_size < blob.size:
        transfer.budget.check()
    try:
        fetch(count)
    except FetchError as error:
        # The last piece may have been the one too many: then all is here.
        if error.reason != "budget-spent" or part.stat().st_size != blob.size:
            raise


def mirrors(urls: Sequence[str], *, connect_timeout_s: float = 10.0) -> tuple[Source, ...]:
    """The mirrors as sources, which the configuration has checked."""
    found = []
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme == "file":
            found.append(Source(name=url, streams=Folder(Path(unquote(parts.path))), metered=False))
        else:
            found.append(Source(name=url, streams=HttpMirror(url, connect_timeout_s=connect_timeout_s)))
    return tuple(found)


class HttpMirror:
    """Implements `ports.HubStreams` for a web server: no token, no redirect, the system's certificate authorities."""

    def __init__(self, url: str, *, connect_timeout_s: float = 10.0, context: ssl.SSLContext | None = None) -> None:
        self._base, self._connect_timeout_s = url.rstrip("/"), connect_timeout_s
        self._pool = pool_manager(
            maxsize=1, retries=False, ssl_context=context or ssl.create_default_context(), cert_reqs=ssl.CERT_REQUIRED
        )

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0
    ) -> Iterator[Stream]:
        """See the port."""
        try:
            answer = self._pool.request(
                method,
                self._base + path,
                headers=headers,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=min(self._connect_timeout_s, timeout), read=timeout),
            )
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"{self._base} does not answer: {error}", subject=self._base) from error
        try:
            yield answer
        finally:
            answer.close()


class Folder:
    """Implements `ports.HubStreams` for a folder that holds `blobs/<sha256>`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0
    ) -> Iterator[Stream]:
        """See the port; only blobs by GET are here."""
        named = _BLOB.fullmatch(path)
        if method != "GET" or named is None:
            yield FileAnswer(status=404, headers={})
            return
        try:
            # Not blocking: a pipe of that name must not hold up the update.
            descriptor = os.open(self._path / "blobs" / named[1], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            yield FileAnswer(status=404, headers={})
            return
        except OSError as error:
            raise UnreachableError(f"{self._path} cannot be read: {error}", subject=str(self._path)) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                yield FileAnswer(status=404, headers={})
                return
            yield _from_file(descriptor, status.st_size, (headers or {}).get("Range", ""))
        finally:
            os.close(descriptor)


class FileAnswer(Struct, frozen=True, kw_only=True):
    """A file as an HTTP answer; implements `ports.Stream`."""

    status: int
    headers: dict[str, str]
    read: Callable[[int], bytes] = lambda count: b""

    def read1(self, amt: int) -> bytes:
        """See the port; raises UnreachableError when the medium fails."""
        try:
            return self.read(amt)
        except OSError as error:
            raise UnreachableError(f"a mirror's folder cannot be read: {error}") from error


def _from_file(descriptor: int, size: int, wanted: str) -> FileAnswer:
    asked = _RANGE.fullmatch(wanted)
    start = int(asked[1]) if asked else 0
    if start and start >= size:
        return FileAnswer(status=416, headers={})
    os.lseek(descriptor, start, os.SEEK_SET)
    headers = {"Content-Length": str(size - start)}
    if start:
        headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    return FileAnswer(status=206 if start else 200, headers=headers, read=lambda count: os.read(descriptor, count))
