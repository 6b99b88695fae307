"""A bundle on a disk (`fleet release bundle`) in the place of the hub: same paths, same checks, no network.

Nothing here is trusted: the TUF client and the blobs' hashes judge what the folder holds, as they do a hub's answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from edge_agent.errors import DeniedError, NotFoundError, UnreachableError
from edge_agent.host.owner import user
from edge_agent.identity.http import WholeResponse

_PATHS = re.compile(
    r"/tuf/(?P<tuf>metadata/[a-z0-9.]{1,80}\.json|targets/(?:[a-z0-9-]{1,63}/){1,2}[a-z0-9.-]{1,140}\.json)"
    r"|/(?P<blob>blobs/[0-9a-f]{64})"
)
_RANGE = re.compile(r"bytes=([0-9]{1,18})-")


class FolderStream(Struct, frozen=True, kw_only=True):
    """Implements `ports.Stream` over an open file (None: an answer without a body)."""

    status: int
    headers: Mapping[str, str]
    file: BinaryIO | None = None

    def read1(self, amt: int) -> bytes:
        """See the port; UnreachableError when the medium cannot be read."""
        if self.file is None:
            return b""
        try:
            return self.file.read(amt)
        except OSError as error:
            raise UnreachableError(f"the bundle cannot be read: {error}", hint="copy the bundle again") from error


class FolderHub:
    """Implements `ports.HubStreams` and `ports.HubCalls`: a hub that knows its static files and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0
    ) -> Iterator[FolderStream]:
        """See the port. A file that is not there answers 404; one that cannot be read is UnreachableError."""
        file = self._open(path) if method == "GET" else None
        if file is None:
            yield FolderStream(status=404, headers={})
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            asked = _RANGE.fullmatch((headers or {}).get("Range", ""))
            start = int(asked.group(1)) if asked else 0
            if not 0 < start < size:
                yield FolderStream(status=200, headers={"Content-Length": str(size)}, file=file)
                return
            file.seek(start)
            about = {"Content-Length": str(size - start), "Content-Range": f"bytes {start}-{size - 1}/{size}"}
            yield FolderStream(status=206, headers=about, file=file)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> WholeResponse:
        """See the port: a folder answers no question, so groups and pins stay the ones the device knows."""
        return WholeResponse(status=404, headers={}, data=b"")

    def _open(self, path: str) -> BinaryIO | None:
        found = _PATHS.fullmatch(path)
        if found is None or ".." in path:
            return None
        return open_regular(self._folder / (found["tuf"] or found["blob"]))


def open_regular(name: Path) -> BinaryIO | None:
    """A file of a bundle; None where there is none, or no plain one. UnreachableError (`unreadable`) otherwise."""
    try:
        # not blocking: a pipe of that name would otherwise hold the updater for ever
        file = os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "the agent's user must be able to read the bundle; copy it again if the medium is damaged"
        raise UnreachableError(
            f"{name} cannot be read by {user(os.geteuid())}: {error.strerror}",
            subject=str(name),
            hint=hint,
            reason="unreadable",
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        return None
    return file


def check_bundle(folder: Path) -> None:
    """Check that `folder` looks like a bundle; whether it is a good one, TUF says.

    Raises:
        NotFoundError: it does not. DeniedError: this user may not look (`unreadable`).
    """
    try:
        found = (folder / "metadata" / "timestamp.json").is_file()
    except PermissionError as error:
        raise DeniedError(
            f"{error.filename} cannot be read by {user(os.geteuid())}",
            subject=str(folder),
            reason="unreadable",
            hint=f"chmod -R a+rX {folder}, or copy it where that user may read",
        ) from error
    if not found:
        raise NotFoundError(
            f"{folder} holds no bundle: metadata/timestamp.json is missing",
            subject=str(folder),
            reason="not-found",
            hint="make one where the hub can be reached: fleet release bundle --channel C --out FOLDER",
        )
