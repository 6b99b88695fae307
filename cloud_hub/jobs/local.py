"""The service that keeps one worker process beside the server."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from cloud_hub.context import Hub
from cloud_hub.errors import UnreachableError

log = logging.getLogger(__name__)
STOP_S = 5.0


class LocalWorker:
    """`cloud-hub worker DIR` as a child; the supervisor starts it again when it dies."""

    name = "local-worker"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def run(self) -> None:
        """Until cancelled; then the worker is asked to stop, and stopped."""
        directory = str(self._hub.config.directory)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cloud_hub",
            "worker",
            directory,
            "--parent",
            str(os.getpid()),
            "--log-format",
            self._hub.config.log_format,
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()  # a job under way goes on elsewhere when its lease ends
                await process.wait()
            raise
        raise UnreachableError(f"the local worker ended with code {code}", subject="worker")
