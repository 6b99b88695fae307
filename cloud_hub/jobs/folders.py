"""The folders of jobs on a worker's disk: where each lies, and how long one is kept that nobody will go on in."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cloud_hub.context import Hub
from cloud_hub.errors import HubError, NotFoundError
from cloud_hub.jobs.logs import keep_log, read_log
from cloud_hub.store.tables import Job

log = logging.getLogger(__name__)
EVERY_S = 3600.0


def work_folder(hub: Hub, job: str) -> Path:
    """Return the folder of a job's work: its input, its checkpoints, its results."""
    return hub.config.directory / "work" / job


class WorkFolders:
    """Removes what jobs left behind that have ended without a release; the log of one whose worker died is kept."""

    def __init__(self, hub: Hub, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._hub, self._monotonic, self._next = hub, monotonic, -math.inf

    def look(self) -> list[str]:
        """Once an hour, remove the folders of jobs that ended `keep_s` ago or are not known; the jobs' ids."""
        if self._monotonic() < self._next:
            return []
        self._next = self._monotonic() + EVERY_S
        folder = self._hub.config.directory / "work"
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        gone = [path.name for path in paths if self._is_over(path) and self._log_is_kept(path)]
        for job in gone:
            shutil.rmtree(folder / job, ignore_errors=True)
            log.info("the work folder of job %s is removed", job)
        return gone

    def _log_is_kept(self, path: Path) -> bool:
        """Keep the job's log where the hub has none of it; False where it cannot be kept now."""
        try:
            if not read_log(self._hub, path.name):
                keep_log(self._hub, path.name, path)
        except NotFoundError:
            log.debug("nobody knows job %s", path.name)
        except (HubError, OSError) as error:
            log.warning("the work folder of job %s stays, its log could not be kept: %s", path.name, error)
            return False
        return True

    def _is_over(self, path: Path) -> bool:
        limit = self._hub.clock() - self._hub.config.worker.keep_s
        with self._hub.reading() as session:
            job = session.get(Job, path.name)
        with contextlib.suppress(FileNotFoundError):  # another worker may have removed it just now
            ended = path.stat().st_mtime if job is None else job.ended_at
            return path.is_dir() and ended is not None and ended < limit
        return False
