"""Folders from one machine to another that shares no disk with it: files as bounded pieces, changed ones only.

Pieces of one file come one after the other. Links to folders are not followed; what a link to a file holds is sent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from msgspec import Struct

from cloud_hub.execution.log import before
from cloud_hub.execution.port import LOG, OverLimitError, WorkFailedError

PIECE = 8 << 20  # bytes
FILES = 100_000  # at most, in one folder
COMING = ".coming"  # the file that is not whole yet
OWN = (LOG, before(Path(LOG)).name, "tmp", COMING)  # of the folder of a piece of work: each machine has its own


class Piece(Struct, frozen=True, kw_only=True, tag="piece"):
    """Bytes of the file `path` (relative, with slashes), in order; `first` begins the file, `last` ends it."""

    path: str
    data: bytes
    first: bool
    last: bool


class HeldFiles(Struct, frozen=True, kw_only=True, tag="held"):
    """All files that the other side has: what is not among them was removed there."""

    paths: list[str]


class Outgoing:
    """The files below a folder, and which of them have changed since they were sent."""

    def __init__(self, folder: Path, under: str = "") -> None:
        """`under` comes before each path that is sent."""
        self._folder, self._under = folder, under
        self._sent: dict[str, tuple[int, int, int]] = {}

    def pass_over(self) -> None:
        """Take all files as sent: the other side has them."""
        self._sent = {path: _state(found) for path, found in _files(self._folder)}

    def changed(self) -> Iterator[Piece]:
        """Yield the pieces of the files that the other side lacks; one that changes meanwhile comes again next time.

        The oldest files come first: one that says that others are done is there only after them.
        """
        for path, found in sorted(_files(self._folder), key=_age):
            if self._sent.get(path) != _state(found):
                with contextlib.suppress(FileNotFoundError):  # it was a temporary one
                    yield from self._pieces(path)
                    self._sent[path] = _state(found)

    def held(self) -> HeldFiles:
        """All that is there now."""
        return HeldFiles(paths=[self._under + path for path, _ in _files(self._folder)])

    def _pieces(self, path: str) -> Iterator[Piece]:
        first = True
        with (self._folder / path).open("rb") as file:
            data = file.read(PIECE)
            while first or data:
                following = file.read(PIECE)
                yield Piece(path=self._under + path, data=data, first=first, last=not following)
                data, first = following, False


class Incoming:
    """Writes below a folder what comes; a file is there when it is whole.

    At most FILES files come, and `most` bytes in all; None for any number.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self._folder, self._most = folder, most
        self._sizes, self._total = dict[str, int](), 0

    def take(self, piece: Piece) -> None:
        """Write one piece.

        Raises:
            OverLimitError: more bytes or files come back than may.
            WorkFailedError: its path leads out of the folder, or to a file of this machine's own.
        """
        target = self._target(piece.path)
        known = self._sizes.get(piece.path, 0)
        self._sizes[piece.path] = len(piece.data) + (0 if piece.first else known)
        self._total += self._sizes[piece.path] - known
        if len(self._sizes) > FILES or (self._most is not None and self._total > self._most):
            raise OverLimitError(
                f"the work has made more files than may come back: {self._most} bytes, {FILES} files",
                hint="write less, or raise worker.disk_bytes",
            )
        coming = self._folder / COMING
        with coming.open("wb" if piece.first else "ab") as file:
            file.write(piece.data)
        if piece.last:
            target.parent.mkdir(parents=True, exist_ok=True)
            coming.replace(target)

    def keep(self, held: HeldFiles) -> None:
        """Remove what the other side has removed."""
        kept = set(held.paths)
        for path, _ in list(_files(self._folder)):
            if path not in kept:
                (self._folder / path).unlink(missing_ok=True)

    def _target(self, path: str) -> Path:
        parts = PurePosixPath(path).parts
        places = [self._folder.joinpath(*parts[:count]) for count in range(1, len(parts))]
        if not parts or path.startswith("/") or {"", "..", "."} & set(path.split("/")) or "\0" in path:
            raise WorkFailedError(f"{path!r} is no path within a folder", subject="path")
        if parts[0] in OWN or any(place.is_symlink() for place in places):
            raise WorkFailedError(f"{path!r} is not a place for files from elsewhere", subject="path")
        return self._folder.joinpath(*parts)


def _files(folder: Path, under: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """The files below a folder by their paths, but for each machine's own."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in sorted(os.scandir(folder / under), key=lambda entry: entry.name):
            path = f"{under}/{entry.name}" if under else entry.name
            if path in OWN or entry.name == "__pycache__":
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(folder, path)
            elif entry.is_file():
                with contextlib.suppress(FileNotFoundError):
                    yield path, entry.stat()


def _age(file: tuple[str, os.stat_result]) -> tuple[int, int]:
    """Return a file's key in the order of sending; of one moment, by a coarse clock, deeper ones come first."""
    path, found = file
    return found.st_mtime_ns, -path.count("/")


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino
