"""Stores content-addressed blobs and verified manifests. Names never become paths."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edge_agent.errors import CorruptBlobError, DiskFullError, UnreadableError
from edge_agent.host.durable import write_durably
from edge_agent.ports import InstalledRelease, read_blob
from edge_agent.update.rules.model_state import HeldRelease
from fleet.durable import sync
from fleet.protocol.errors import ProtocolError
from fleet.protocol.interface import Interface, interface_of
from fleet.protocol.manifest import Blob, Manifest, decode_manifest

log = logging.getLogger(__name__)

RESERVE = 16 << 20  # bytes that stay free for the spool and the state
UNFINISHED = (".part", ".delta", ".draft")  # a download, a patch, and what a patch makes


class Store:
    """`blobs/<sha256>`, partial downloads `blobs/<sha256>.part`, and `releases/<sha256>.json`."""

    def __init__(
        self,
        directory: Path,
        *,
        reserve: int = RESERVE,
        free: Callable[[Path], int] = lambda p: shutil.disk_usage(p).free,
        to_write: bool = True,
    ) -> None:
        """`to_write` false: whoever only reads, such as an agent that starts on a read-only disk, needs no folder."""
        self.blobs = directory / "blobs"
        self.manifests = directory / "releases"
        self._lock = directory / "blobs.lock"
        self._reserve, self._free = reserve, free
        for folder in (self.blobs, self.manifests):
            with contextlib.nullcontext() if to_write else contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)

    def put_manifest(self, data: bytes) -> str:
        """Keep a manifest that TUF has verified; returns its SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.manifests / f"{digest}.json"
        if not path.exists() or path.read_bytes() != data:
            try:
                write_durably(path, data, mode=0o440)
            except OSError:
                path.unlink(missing_ok=True)  # its name may not have reached the disk
                raise
        return digest

    def manifest(self, sha256: str) -> Manifest:
        """A kept manifest, hashed again.

        Raises:
            CorruptBlobError: it is missing or has changed. UnreadableError: it cannot be read now.
        """
        try:
            return decode_manifest(self.manifest_bytes(sha256))
        except ProtocolError as error:
            raise CorruptBlobError(f"manifest {sha256[:12]} is of no use: {error}", subject=sha256) from error

    def manifest_bytes(self, sha256: str) -> bytes:
        """Return a manifest's bytes as they were signed.

        Raises:
            CorruptBlobError: it is missing, or has not its hash.
            UnreadableError: it cannot be read now.
        """
        try:
            data = (self.manifests / f"{sha256}.json").read_bytes()
        except FileNotFoundError as error:
            raise CorruptBlobError(f"manifest {sha256[:12]} is of no use: {error}", subject=sha256) from error
        except OSError as error:
            raise UnreadableError(f"manifest {sha256[:12]} cannot be read: {error}", subject=sha256) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptBlobError(f"manifest {sha256[:12]} does not have that hash", subject=sha256)
        return data

    def open(self, model: str, held: HeldRelease, former: HeldRelease | None = None) -> InstalledRelease:
        """Open a release, with every blob that serving needs hashed once more; `former` is the one that it replaces.

        Args:
            model: its name.
            held: the release to open.
            former: the one that it replaces.

        Raises:
            CorruptBlobError: something is missing or has changed on the disk.
            UnreadableError: something cannot be read now.
        """
        manifest = self.manifest(held.manifest)
        try:
            variant = manifest.variant(held.variant)
        except ProtocolError as error:
            raise CorruptBlobError(str(error), subject=held.variant) from error
        for blob in manifest.needed_for(variant):
            self.verify(blob)
        return InstalledRelease(
            model=model,
            number=held.release,
            manifest=manifest,
            variant=variant,
            blobs=self.blobs,
            former=self._interface(former),
        )

    def _interface(self, held: HeldRelease | None) -> Interface | None:
        """Read a release's interface; None where its manifest cannot be read now."""
        if held is None:
            return None
        try:
            return interface_of(self.manifest(held.manifest))
        except (CorruptBlobError, UnreadableError) as error:
            log.warning("no refused request can be compared with release %d: %s", held.release, error)
            return None

    def verify(self, blob: Blob) -> None:
        """Hash a blob; a wrong one is removed, so that it is fetched again.

        Raises:
            CorruptBlobError: it is missing or wrong. UnreadableError: it cannot be read now; it stays.
        """
        try:
            data = read_blob(self.blobs, blob.sha256)
        except CorruptBlobError:
            (self.blobs / blob.sha256).unlink(missing_ok=True)
            raise
        if len(data) != blob.size:
            raise CorruptBlobError(
                f"blob {blob.sha256[:12]} has {len(data)} bytes, not {blob.size}", subject=blob.sha256
            )

    def has(self, blob: Blob) -> bool:
        """Return whether a file of that name and size is here (not hashed)."""
        try:
            return (self.blobs / blob.sha256).stat().st_size == blob.size
        except OSError:
            return False

    def part(self, blob: Blob) -> Path:
        """Return the path where a download of `blob` grows."""
        return self.blobs / f"{blob.sha256}.part"

    @contextlib.contextmanager
    def alone(self, blob: Blob) -> Iterator[None]:
        """Be the only process that fetches or accepts `blob`: models may share a file. One at a time, not nested.

        The other one is a child of the same agent, which ends with the look. A byte of one fixed file is locked, so
        that no lock files gather and none is taken for rubbish; two blobs with one byte only wait for each other.
        """
        with self._lock.open("ab") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, int(blob.sha256[:15], 16))
            yield

    def accept(self, blob: Blob) -> None:
        """Hash a finished download and give it its name; the bytes are synced before the rename.

        Raises:
            CorruptBlobError: another hash; the download is thrown away. Or another process threw it away.
            OSError: the disk would not sync it; it is thrown away, too, since a second fsync of the same
                pages proves nothing (Rebello et al., USENIX ATC 2020).
        """
        part, final, named = self.part(blob), self.blobs / blob.sha256, False
        try:
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            if digest != blob.sha256:
                raise CorruptBlobError(
                    f"blob {blob.sha256[:12]} arrived with hash {digest[:12]}",
                    subject=blob.sha256,
                    hint="it is fetched again",
                )
            part.chmod(0o440)
            part.replace(final)
            named = True
            sync(self.blobs)
        except FileNotFoundError as error:
            raise CorruptBlobError(
                f"the download of blob {blob.sha256[:12]} is gone", subject=blob.sha256, hint="it is fetched again"
            ) from error
        except (CorruptBlobError, OSError):
            part.unlink(missing_ok=True)
            if named:  # what is not of this call's making stays
                final.unlink(missing_ok=True)
            raise

    def check_space(self, blobs: Iterable[Blob]) -> None:
        """Raise DiskFullError with the figure when what is still to be fetched does not fit."""
        self.check_room(sum(self._missing(blob) for blob in blobs))

    def check_room(self, count: int, *, beside: int = 0, missing: int = 0) -> None:
        """Raise DiskFullError unless `count` more bytes fit beside the reserve and `beside`, which others will write.

        `missing` is what the error speaks of where `count` is only the next piece of it.

        Args:
            count: bytes to be written.
            beside: bytes that others will write meanwhile.
            missing: bytes of the whole, for the message, where `count` is only its next piece.

        Raises:
            DiskFullError: they do not fit beside the reserve.
        """
        free = self._free(self.blobs)
        if free >= count + beside + self._reserve:
            return
        needed = max(count, missing) + beside + self._reserve
        under_way = f" with the {beside} of those under way" if beside else ""
        raise DiskFullError(
            f"the update needs {needed} bytes{under_way}, {free} are free",
            subject=str(self.blobs),
            hint=f"free {needed - free} bytes on the device",
        )

    def make_room(self, wanted: Iterable[Blob], under_way: Iterable[Blob]) -> int:
        """Check that `wanted` fits beside what is missing of the blobs `under_way`; returns the bytes of the latter.

        Partial downloads of anything else give way, if that is enough: several models that fit one at a time, but
        not together, would keep each other out for ever.

        Raises:
            DiskFullError: it does not fit.
        """
        others = set(under_way)
        mine = set(wanted) - others
        count, beside = (sum(self._missing(blob) for blob in blobs) for blobs in (mine, others))
        short = count + beside + self._reserve - self._free(self.blobs)
        known = {blob.sha256 for blob in mine | others}
        idle = [path for path in self.blobs.iterdir() if path.suffix in UNFINISHED and path.stem not in known]
        sizes = {path: path.stat().st_size for path in idle}
        if short <= sum(sizes.values()):
            for path in sorted(idle, key=sizes.__getitem__, reverse=True):  # as few as will do
                if short > 0:
                    path.unlink()
                    short -= sizes[path]
        self.check_room(count, beside=beside)
        return beside

    def _missing(self, blob: Blob) -> int:
        if self.has(blob):
            return 0
        try:
            return blob.size - min(self.part(blob).stat().st_size, blob.size)
        except FileNotFoundError:  # never begun, or a child has accepted it just now
            return 0 if self.has(blob) else blob.size

    def collect(self, in_use: Iterable[HeldRelease]) -> int:
        """Remove everything that nothing in `in_use` needs; returns the bytes that came free.

        Call it when no child is at work: a draft under way looks like what a kill left. Nothing is
        removed when a manifest in use cannot be read: then nobody knows what it needs.
        """
        held = tuple(in_use)
        keep = {item.manifest for item in held}
        try:
            for item in held:
                manifest = self.manifest(item.manifest)
                variant = manifest.variant(item.variant)
                keep |= {blob.sha256 for blob in manifest.blobs((variant,))}  # an agent of 0.1 would miss the others
        except (CorruptBlobError, UnreadableError, ProtocolError):
            return 0
        freed = 0
        for path in (*self.blobs.iterdir(), *self.manifests.iterdir()):
            whole = path.suffix == ".delta" and path.with_suffix("").exists()  # a patch that nobody needs any more
            if whole or path.name.removesuffix(".part").removesuffix(".delta").removesuffix(".json") not in keep:
                size = path.stat().st_size
                path.unlink()
                freed += size
        return freed
