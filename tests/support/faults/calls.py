"""File calls of this process in one folder: the n-th does not happen, nor any after it, as in a process that died.

What happened is also kept as a `replay.Disk`, which knows what a power cut at that moment would have left.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults.record import Op
from tests.support.faults.replay import Disk, same


class DeadError(BaseException):
    """This process is taken for dead; no handler of an `Exception` goes on."""


class Calls:
    """Counts and records the changing calls on `folder` while it is entered; other threads' folders are their own."""

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self._folder, self._last = folder, last
        self._disk = Disk(folder)
        self.count = 0

    def __enter__(self) -> Calls:
        self._patch = pytest.MonkeyPatch()
        for name, call in (("open", self._open), ("fsync", self._fsync), ("replace", self._replace)):
            self._patch.setattr(os, name, call(getattr(os, name)))
        for name in ("rename", "remove", "unlink", "link", "symlink", "truncate", "mkdir"):
            self._patch.setattr(
                os, name, self._unlink(os.unlink) if name in ("unlink", "remove") else self._never(name)
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()

    def differences(self) -> list[str]:
        """The differences between record and folder: a call that changed it and was not seen."""
        return same(self._disk, self._folder)

    def lose_power(self, mode: str, seed: int) -> None:
        """Put in the folder's place what a power cut now may leave of it; see `Disk.after_power_loss`."""
        found = self._folder.with_name("found")
        self._disk.after_power_loss(random.Random(seed), found, mode)
        shutil.rmtree(self._folder)
        found.replace(self._folder)

    def _inside(self, path: Any) -> str | None:
        found = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else Path(path)
        if found == self._folder:
            return ""
        return str(found.relative_to(self._folder)) if found.is_relative_to(self._folder) else None

    def _happens(self, *paths: str) -> None:
        """Record what was written to these files meanwhile, and end the process here if its time has come."""
        for path in paths:
            data = (self._folder / path).read_bytes()
            if data != self._disk.data(path):
                self._disk.apply(Op(kind="truncate", path=path, at=0))
                self._disk.apply(Op(kind="write", path=path, data=data))
        if self._last is not None and self.count >= self._last:
            raise DeadError
        self.count += 1

    def _open(self, call: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
            inside = self._inside(path) if flags & os.O_CREAT else None
            if inside is None:
                return call(path, flags, *more, **named)
            self._happens()
            descriptor = call(path, flags, *more, **named)
            self._disk.apply(Op(kind="make", path=inside))
            return descriptor

        return opened

    def _fsync(self, call: Callable[[int], None]) -> Callable[[int], None]:
        def synced(descriptor: int) -> None:
            inside = self._inside(descriptor)
            if inside is None:
                return call(descriptor)
            self._happens(*[inside] if inside else [])
            call(descriptor)
            return self._disk.apply(Op(kind="sync", path=inside))

        return synced

    def _replace(self, call: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def replaced(old: Any, new: Any) -> None:
            source, target = self._inside(old), self._inside(new)
            if source is None or target is None or not Path(old).exists():
                return call(old, new)
            self._happens(source)
            call(old, new)
            return self._disk.apply(Op(kind="rename", path=source, other=target))

        return replaced

    def _unlink(self, call: Callable[..., None]) -> Callable[..., None]:
        def unlinked(path: Any, **named: Any) -> None:
            inside = None if named else self._inside(path)  # relative to a folder's descriptor: somebody else's
            if inside is None or not Path(path).exists():
                return call(path, **named)
            self._happens()
            call(path)
            return self._disk.apply(Op(kind="unlink", path=inside))

        return unlinked

    def _never(self, name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def refused(path: Any, *more: Any, **named: Any) -> Any:
            assert self._inside(path) is None, f"os.{name} in {self._folder} is not recorded"
            return call(path, *more, **named)

        return refused
