"""Waiting for a message of a call of `grpc.aio`, and not for ever."""

from __future__ import annotations

import asyncio
from typing import Any


async def next_message(context: Any, limit_s: float) -> Any:
    """The next message, or `grpc.aio.EOF`; TimeoutError where none comes in time.

    The read itself is never cancelled: grpc's core would write what comes later to where the message was to be. It
    ends with its call.
    """
    reading = asyncio.ensure_future(context.read())
    reading.add_done_callback(retrieved)
    done, _ = await asyncio.wait({reading}, timeout=limit_s)
    if not done:
        raise TimeoutError
    return reading.result()


def retrieved(task: asyncio.Future[Any]) -> None:
    """Take the error of a task that nobody waits for any more, so that the event loop does not report it."""
    if not task.cancelled():
        task.exception()
