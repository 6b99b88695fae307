"""Keeps a task going that may fail: serving must not end because something beside it failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

RESTART_S = 5.0


async def guarded(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run until `run` returns; after an error, log it under `name` and run again after a pause."""
    while True:
        try:
            await run()
            return
        except Exception:  # the task boundary: logged with its trace, then started again
            log.exception("%s failed; it starts again in %.0f s", name, RESTART_S)
            await asyncio.sleep(RESTART_S)
