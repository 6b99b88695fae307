"""The folders of jobs on a worker's disk: where each lies, and how long one is kept that nobody will go on in."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cloud_hub.context import Hub
from cloud_hub.store.tables import Job

log = logging.getLogger(__name__)
EVERY_S = 3600.0


def work_folder(hub: Hub, job: str) -> Path:
    """Where a job's work lies: what it was given, its checkpoints, what it makes."""
    return hub.config.directory / "work" / job


class WorkFolders:
    """Removes what jobs left behind that have ended without a release: by then their logs are at the hub."""

    def __init__(self, hub: Hub, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._hub, self._monotonic, self._next = hub, monotonic, -math.inf

    def look(self) -> list[str]:
        """Once an hour, remove the folders of jobs that ended `keep_s` ago or are not known; the jobs' ids."""
        if self._monotonic() < self._next:
            return []
        self._next = self._monotonic() + EVERY_S
        folder = self._hub.config.directory / "work"
        gone = [path.name for path in sorted(folder.iterdir()) if self._is_over(path)] if folder.is_dir() else []
        for job in gone:
            shutil.rmtree(folder / job, ignore_errors=True)
            log.info("the work folder of job %s is removed", job)
        return gone

    def _is_over(self, path: Path) -> bool:
        limit = self._hub.clock() - self._hub.config.worker.keep_s
        with self._hub.reading() as session:
            job = session.get(Job, path.name)
        ended = path.stat().st_mtime if job is None else job.ended_at
        return path.is_dir() and ended is not None and ended < limit
