"""The port behind which users' code runs, whatever machine or process is there.

Code of a user's hangs, exits, crashes, and fills memory or disk. An executor runs it so that none of this takes the
worker along: a folder goes in, the same folder comes out with what was made, and progress is heard meanwhile.

    child.ChildExecutor      a process of its own for each piece of work, on this machine
    cluster.ClusterExecutor  the same on a node of a Ray cluster; on_ray.RayExecutor where Ray is connected
    here.InlineExecutor      in the caller's process, without limits: for a person at a terminal, and for tests

ExecutionError
 ├── WorkFailedError   the code ended with an error of its own: its message, and its hint
 ├── WorkDiedError     its process ended before the work was done: an exit, a signal, a machine that was lost
 ├── OverLimitError    it was ended for its time, memory or disk
 └── NoClusterError    the cluster does not answer, has no room, or cannot run it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from cloud_hub.errors import HubError, InvalidError, UnreachableError

Progress = Callable[[str, float], None]
LOG = "log.txt"  # in the work's folder; what came before the last LOG_BYTES is in `log.txt.1`, or gone
LOG_BYTES = 4 << 20


class ExecutionError(HubError):
    """The work did not end well; the worker goes on."""


class WorkFailedError(ExecutionError, InvalidError):
    """The code refused, or raised."""

    code = "invalid"


class WorkDiedError(ExecutionError):
    """The process ended before the work was done."""


class OverLimitError(ExecutionError):
    """The work was ended because it took too much."""


class NoClusterError(ExecutionError, UnreachableError):
    """The cluster cannot run the work, or not now."""

    code = "unreachable"


@dataclass(frozen=True)
class Work:
    """A piece of work: `entry` is `module:function`, called as `function(folder, arguments, progress)`.

    It reads from and writes to `folder`, and returns JSON; `arguments` are JSON, too. It may be run again in the same
    folder after it was ended. `beside` are further folders that it reads: the argument of each one's name says where
    it lies then, which is another place on another machine.
    """

    entry: str
    folder: Path
    arguments: Mapping[str, Any]
    beside: Mapping[str, Path] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, Any]:
        """The arguments, those of `beside` among them."""
        return {**self.arguments, **{name: str(path) for name, path in self.beside.items()}}


@dataclass(frozen=True)
class Limits:
    """The limits of a piece of work with all its processes; None is no limit.

    `wall_s` seconds; `memory_bytes` resident at once; `disk_bytes` in its folder; `spare_disk_bytes` must stay free on
    the folder's disk, which holds more than this work.
    """

    wall_s: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    spare_disk_bytes: int = 0


class Executor(Protocol):
    """Runs work."""

    def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        """Run it to its end and return its result; what it printed is in `work.folder / LOG`.

        Args:
            work: what to run.
            progress: hears each step with its share, 0 to 1.
            check: called at least every second.

        Raises:
            ExecutionError: see the module.
            Exception: what `progress` or `check` raises ends the work, and passes through.
        """
        ...


def entry_of(work: Work) -> Callable[[Path, Mapping[str, Any], Progress], dict[str, Any]]:
    """The function that a piece of work names."""
    module, _, name = work.entry.partition(":")
    found: Callable[[Path, Mapping[str, Any], Progress], dict[str, Any]] = getattr(import_module(module), name)
    return found
