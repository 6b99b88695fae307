"""The points at which a fault can strike: every mutating system call of an update, counted as strace counts it.

strace's `when=N` counts calls of one name in one thread, so a point is (role, name, N), and a census is
taken of each role's process alone.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from tests.support.faults.world import Scenario, copy
from tests.support.faults.zygote import Case, Ended, Strace

ROLES = ("agent", "look", "trial")
MUTATING = (
    "openat",
    "open",
    "creat",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "sendfile",
    "copy_file_range",
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
    "fchmodat2",
)
# A question mark lets strace go on where a machine (arm64) or a version does not know the name.
TRACE = "trace=" + ",".join(f"?{name}" for name in MUTATING)
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
T = TypeVar("T")


class Point(Struct, frozen=True, kw_only=True):
    """The `when`-th call of `call` by the process of `role`; `what` is its arguments as strace shows them."""

    role: str
    call: str
    when: int
    what: str = ""
    on_disk: bool = False  # on a file of the device, not on a pipe or socket

    def __str__(self) -> str:
        return f"{self.role} {self.call} #{self.when} ({self.what[:80]})"


def census(run: Callable[[Case], Ended], folder: Path, scenario: Scenario, url: str) -> list[Point]:
    """Every mutating call of an undisturbed update, on disk or to another process."""
    points: list[Point] = []
    device, log = folder / "device", folder / "strace.log"
    for role in ROLES:
        log.unlink(missing_ok=True)
        copy(scenario.image, device, f"{url}/{scenario.stage}")
        strace = Strace(role=role, options=("-y", "-s", "40", "-e", TRACE), log=str(log))
        ended = run(case(scenario, folder, strace=strace))
        assert ended.seen is not None and ended.seen.active == scenario.wanted, ended
        points += _points(role, log.read_text(errors="replace") if log.exists() else "", str(device))
    return points


def case(scenario: Scenario, folder: Path, *, strace: Strace | None = None, **options: Any) -> Case:
    """A life of the agent in `folder`/device; `options` are fields of `Case`."""
    return Case(directory=str(folder / "device"), failing=scenario.failing, strace=strace, **options)


def _points(role: str, log: str, device: str) -> list[Point]:
    seen: Counter[str] = Counter()
    points = []
    for line in log.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        call, what = match.groups()
        seen[call] += 1
        if call in ("openat", "open") and ("O_CREAT" not in what or device not in what):
            continue
        shown = what.replace(device, "").replace("AT_FDCWD, ", "")
        points.append(Point(role=role, call=call, when=seen[call], what=shown, on_disk=device in what))
    return points


def sample(items: Sequence[T], count: int, seed: int) -> list[T]:
    """`count` of the items, one from each of `count` even stretches; all when there are no more."""
    if len(items) <= count:
        return list(items)
    rng = random.Random(seed)
    edges = [round(i * len(items) / count) for i in range(count + 1)]
    return [items[rng.randrange(low, high)] for low, high in itertools.pairwise(edges)]
