"""The messages of a child, or of a node of a cluster, to the worker, as JSON lines; faults of users' code in words."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from cloud_hub.execution.port import (
    ExecutionError,
    NoClusterError,
    OverLimitError,
    WorkDiedError,
    WorkFailedError,
)
from model_compiler.user_file import place_of
from model_compiler.user_file import said as words_of

MEMORY_WORDS = ("can't allocate memory", "out of memory", "Unable to allocate", "bad_alloc", "Cannot allocate memory")
KINDS: dict[str, type[ExecutionError]] = {
    "failed": WorkFailedError,
    "died": WorkDiedError,
    "limit": OverLimitError,
    "cluster": NoClusterError,
}


class Spec(Struct, frozen=True, kw_only=True):
    """The order to a child: see `execution.Work` and `Limits`; `paths` are the worker's import paths."""

    entry: str
    folder: str
    arguments: dict[str, Any]
    paths: list[str]
    parent: int
    memory_bytes: int | None = None
    disk_bytes: int | None = None


class WorkProgress(Struct, frozen=True, kw_only=True, tag="progress"):
    """The progress of the work."""

    step: str
    share: float


class WorkDone(Struct, frozen=True, kw_only=True, tag="done"):
    """The work's result."""

    result: dict[str, Any]


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The work's error; `memory` says that there was too little of it, `kind` which of `KINDS` it is."""

    message: str
    hint: str = ""
    subject: str = ""
    memory: bool = False
    kind: str = "failed"

    def error(self) -> ExecutionError:
        """The error that it tells of."""
        return KINDS.get(self.kind, WorkFailedError)(self.message, subject=self.subject, hint=self.hint)


Message = WorkProgress | WorkDone | Failed


def failure_of(error: BaseException) -> Failed:
    """An error that users' code ended with, in words: ours as they are, others with their kind and place."""
    if isinstance(error, SystemExit):
        return Failed(
            message=f"the code ended its process: sys.exit({'' if error.code is None else repr(error.code)})",
            hint="raise an exception where the work cannot go on, and return where it is done",
        )
    said = str(error).strip()
    if isinstance(error, MemoryError) or any(word in said for word in MEMORY_WORDS):
        return Failed(message=f"there was not enough memory{place_of(error)}: {said or 'MemoryError'}", memory=True)
    if hasattr(error, "hint"):  # an error of one of the rooms
        kind = next((name for name, known in KINDS.items() if isinstance(error, known)), "failed")
        return Failed(message=said, hint=str(error.hint), subject=str(getattr(error, "subject", "")), kind=kind)
    return Failed(message=words_of(error), hint="the job's log has more")
