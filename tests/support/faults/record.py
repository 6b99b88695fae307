"""The writes of an update, read from strace's log as operations on files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

WATCHED = (
    "openat",
    "creat",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "lseek",
    "read",
    "readv",
    "pread64",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mkdir",
    "mkdirat",
    "truncate",
    "ftruncate",
    "fallocate",
    "chmod",
    "fchmod",
    "fchmodat",
    "close",
    "dup",
    "dup2",
    "dup3",
    "sendfile",
    "copy_file_range",
    "mmap",
    "clone",
    "clone3",
    "fork",
)
OPTIONS = ("-y", "-xx", "-s", "16777216", "-e", "trace=" + ",".join(f"?{name}" for name in WATCHED))


class Op(Struct, frozen=True, kw_only=True):
    """One change of the disk. Paths are relative to the device; `""` is the device's own folder."""

    kind: str  # make, write, truncate, sync, rename, unlink, mkdir, symlink, chmod
    path: str
    other: str = ""
    data: bytes = b""
    at: int = 0


class UnknownCallError(Exception):
    """A call that changes the disk and that the replay does not understand: the record would be wrong."""


_LINE = re.compile(r"^(\d+) +(.*)$")
_RESULT = re.compile(r"\) += (-?\d+)(?:<((?:\\x[0-9a-f]{2}|[^>])*)>)?")
_FD = re.compile(r"^(\d+)<((?:\\x[0-9a-f]{2})*|[^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def _text(hexed: str) -> str:
    return os.fsdecode(_bytes(hexed)) if "\\x" in hexed else hexed


def _bytes(hexed: str) -> bytes:
    return bytes.fromhex(hexed.replace("\\x", ""))


def whole_calls(lines: Iterable[str]) -> Iterable[tuple[int, str]]:
    """(process, call), with the calls that strace shows in two pieces put together."""
    begun: dict[int, str] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        process, rest = int(match[1]), match[2].rstrip()
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>").rstrip()
        elif rest.startswith("<... "):
            yield process, begun.pop(process) + rest.partition(" resumed>")[2]
        else:
            yield process, rest


class Recorder:
    """Turns calls into operations; keeps where each descriptor of each process stands."""

    def __init__(self, device: Path) -> None:
        self._device = str(device)
        self._at: dict[tuple[int, int], int] = {}
        self._append: set[tuple[int, int]] = set()
        self.ops: list[Op] = []

    def feed(self, process: int, call: str) -> None:
        """Take one call. Raises UnknownCallError."""
        name, _, rest = call.partition("(")
        result = _RESULT.search(rest[rest.rfind(") ") :] if ") " in rest else rest)
        if result is None or int(result[1]) < 0:
            return
        handler = getattr(self, f"_{name}", None)
        if handler is not None:
            handler(process, rest, int(result[1]))
        elif self._concerns(rest):
            raise UnknownCallError(call[:200])

    def _inside(self, path: str) -> str | None:
        if path == self._device:
            return ""
        return path[len(self._device) + 1 :] if path.startswith(self._device + "/") else None

    def _concerns(self, rest: str) -> bool:
        descriptor = _FD.match(rest)
        paths = [_text(descriptor[2])] if descriptor else []
        paths += [_text(m) for m in _STRING.findall(rest)[:2]]
        return any(self._inside(path) is not None for path in paths)

    def _paths(self, rest: str) -> list[str]:
        """The absolute paths among the arguments; a relative one would need the folder it starts from."""
        return [_text(match) for match in _STRING.findall(rest)]

    def _descriptor(self, rest: str) -> tuple[int, str | None]:
        match = _FD.match(rest)
        assert match is not None, rest[:200]
        return int(match[1]), self._inside(_text(match[2]))

    def _openat(self, process: int, rest: str, result: int) -> None:
        path = self._inside(self._paths(rest)[0])
        self._at[process, result] = 0
        self._append.discard((process, result))
        if path is None:
            return
        if "O_APPEND" in rest:
            self._append.add((process, result))
        if "O_CREAT" in rest:
            self.ops.append(Op(kind="make", path=path))
        if "O_TRUNC" in rest:
            self.ops.append(Op(kind="truncate", path=path, at=0))

    def _write(self, process: int, rest: str, result: int) -> None:
        number, path = self._descriptor(rest)
        at = -1 if (process, number) in self._append else self._at.get((process, number), 0)
        self._at[process, number] = at + result
        if path is not None:
            data = _bytes(_STRING.findall(rest)[0])[:result]
            self.ops.append(Op(kind="write", path=path, data=data, at=at))

    def _pwrite64(self, process: int, rest: str, result: int) -> None:
        path = self._descriptor(rest)[1]
        if path is not None:
            at = int(rest[: rest.rindex(") ")].rpartition(", ")[2])
            self.ops.append(Op(kind="write", path=path, data=_bytes(_STRING.findall(rest)[0])[:result], at=at))

    def _read(self, process: int, rest: str, result: int) -> None:
        number = int(_FD.match(rest)[1])
        self._at[process, number] = self._at.get((process, number), 0) + result

    def _lseek(self, process: int, rest: str, result: int) -> None:
        self._at[process, int(_FD.match(rest)[1])] = result

    def _fsync(self, process: int, rest: str, result: int) -> None:
        path = self._descriptor(rest)[1]
        if path is not None:
            self.ops.append(Op(kind="sync", path=path))

    _fdatasync = _fsync

    def _ftruncate(self, process: int, rest: str, result: int) -> None:
        path = self._descriptor(rest)[1]
        if path is not None:
            at = int(rest[: rest.rindex(") ")].rpartition(", ")[2], 0)
            self.ops.append(Op(kind="truncate", path=path, at=at))

    def _rename(self, process: int, rest: str, result: int) -> None:
        old, new = (self._inside(path) for path in self._paths(rest)[:2])
        if old is None and new is None:
            return
        if old is None or new is None:
            raise UnknownCallError(f"a rename across the device's border: {rest[:200]}")
        self.ops.append(Op(kind="rename", path=old, other=new))

    _renameat = _renameat2 = _rename

    def _named(self, kind: str, rest: str) -> None:
        path = self._inside(self._paths(rest)[0])
        if path is not None:
            self.ops.append(Op(kind=kind, path=path))

    def _unlink(self, process: int, rest: str, result: int) -> None:
        self._named("unlink", rest)

    _unlinkat = _unlink

    def _mkdir(self, process: int, rest: str, result: int) -> None:
        self._named("mkdir", rest)

    _mkdirat = _mkdir

    def _chmod(self, process: int, rest: str, result: int) -> None:
        self._named("chmod", rest)  # modes mean nothing to a replay by root; the call is known, that is all

    _fchmodat = _chmod

    def _symlink(self, process: int, rest: str, result: int) -> None:
        target, link = self._paths(rest)[:2]
        inside = self._inside(link)
        if inside is not None:
            self.ops.append(Op(kind="symlink", path=inside, other=target))

    _symlinkat = _symlink

    def _clone(self, process: int, rest: str, result: int) -> None:
        for (owner, number), at in list(self._at.items()):
            if owner == process:
                self._at[result, number] = at

    _clone3 = _fork = _clone

    def _ignored(self, process: int, rest: str, result: int) -> None:
        """Changes nothing on the disk: descriptors are named by strace in every later call."""

    _close = _dup = _dup2 = _dup3 = _pread64 = _ignored

    def _mmap(self, process: int, rest: str, result: int) -> None:
        shown = _text_of_all(rest)
        writes = "MAP_SHARED" in rest and "PROT_WRITE" in rest
        if writes and self._device in shown and not shown.split(self._device)[1].startswith("/spool.db-shm"):
            raise UnknownCallError(f"writes through memory: {shown[:200]}")


def _text_of_all(rest: str) -> str:
    return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda m: _text(m[0]), rest)


def recorded(log: Path, device: Path) -> list[Op]:
    """The operations in a log that strace wrote with `OPTIONS` and `-f`. Raises UnknownCallError."""
    recorder = Recorder(device)
    with log.open(encoding="ascii", errors="replace") as lines:
        for process, call in whole_calls(lines):
            recorder.feed(process, call)
    return recorder.ops
