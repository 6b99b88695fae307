"""Processes that run cases side by side."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.support.faults.zygote import Case, Ended

ROOT = Path(__file__).resolve().parents[3]
T = TypeVar("T")
R = TypeVar("R")


class Zygote:
    """A process that forks agents; `run` answers when the agent and all its children are gone."""

    def __init__(self, *, module: str = "tests.support.faults.zygote", arguments: tuple[str, ...] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None and self._process.stdout.readline() == b'"ready"\n'

    def run(self, case: Case) -> Ended:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(case) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Ended)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


class Bench:
    """`workers` zygotes, each with a folder of its own."""

    def __init__(self, directory: Path, *, workers: int = 2) -> None:
        self._free: queue.SimpleQueue[tuple[Zygote, Path]] = queue.SimpleQueue()
        self._workers = workers
        self._all = [Zygote() for _ in range(workers)]
        for number, zygote in enumerate(self._all):
            folder = directory / f"worker-{number}"
            folder.mkdir(parents=True)
            self._free.put((zygote, folder))

    @contextlib.contextmanager
    def worker(self) -> Iterator[tuple[Callable[[Case], Ended], Path]]:
        """A free zygote's `run` and its folder."""
        zygote, folder = self._free.get()
        try:
            yield zygote.run, folder
        finally:
            self._free.put((zygote, folder))

    def map(self, work: Callable[[Callable[[Case], Ended], Path, T], R], items: Iterable[T]) -> list[R]:
        """`work(run, folder, item)` for every item, in order of the items, side by side."""

        def one(item: T) -> R:
            with self.worker() as (run, folder):
                return work(run, folder, item)

        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(one, items))

    def close(self) -> None:
        for zygote in self._all:
            zygote.close()
