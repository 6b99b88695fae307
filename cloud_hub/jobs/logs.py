"""The output of a job's code: kept beside the job, so that whoever asks the hub can read it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cloud_hub.context import Hub
from cloud_hub.errors import NotFoundError
from cloud_hub.execution.port import LOG
from cloud_hub.jobs import queue

KEPT = 1 << 20  # bytes: the end of it


def keep_log(hub: Hub, job: str, folder: Path) -> None:
    """Keep the end of the log of a job's work in `folder`; nothing happens where it printed nothing.

    Args:
        hub: the hub.
        job: its id.
        folder: in which the job worked.
    """
    with contextlib.suppress(FileNotFoundError):
        data = b"".join(part.read_bytes() for part in (folder / f"{LOG}.1", folder / LOG) if part.exists())
        if data:
            hub.objects.put(log_key(job), data[-KEPT:])


def read_log(hub: Hub, job: str) -> str:
    """The end of what a job's code has printed; empty where it printed nothing yet. NotFoundError without the job."""
    queue.get(hub, job)
    try:
        return hub.objects.get(log_key(job)).data.decode("utf-8", "replace")
    except NotFoundError:
        return ""


def log_key(job: str) -> str:
    """Return the key of a job's log."""
    return f"jobs/{job}/log.txt"
