"""Loads in threads of their own, so that one which hangs costs its own model and no other.

Nothing ends a thread that hangs in a runtime. In asyncio's pool it would take a place that others need, and hold up
the end of the process; here it is left alone, and its release counts as one that cannot be loaded now.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from edge_agent.errors import ActivationError

T = TypeVar("T")

log = logging.getLogger(__name__)

WALL_S = 300.0
_HINT = "is the device too slow for it? load_wall_s in agent.toml; what hangs ends with the agent"


class Loads(Generic[T]):
    """For one event loop. A load that ends after `wall_s` seconds is handed to `late`, which gives it up again."""

    def __init__(self, wall_s: float, late: Callable[[T], None]) -> None:
        self._wall_s, self._late = wall_s, late
        self._hanging: set[str] = set()

    async def one(self, what: str, load: Callable[[], T]) -> T:
        """Return or raise as `load` does; a load named `what` is not begun anew while it hangs.

        Raises:
            ActivationError: it has not ended in time, or there is no thread for it.
        """
        if what in self._hanging:
            raise ActivationError(f"{what} is still being loaded", hint=_HINT)
        ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda future: self._ended(what, future))
        try:
            threading.Thread(target=_run, args=(load, ended), name=f"load {what}", daemon=True).start()
        except RuntimeError as error:
            raise ActivationError(f"{what} cannot be loaded: {error}", hint="is there memory left?") from error
        try:
            async with asyncio.timeout(self._wall_s):
                return await asyncio.shield(ended)
        except TimeoutError as error:
            if ended.done():  # at the same moment
                return ended.result()
            self._hanging.add(what)
            raise ActivationError(f"{what} was not loaded within {self._wall_s:g} s", hint=_HINT) from error

    def _ended(self, what: str, future: asyncio.Future[T]) -> None:
        if what not in self._hanging:
            return
        self._hanging.discard(what)
        if future.exception() is None:
            log.warning("%s is loaded after all; it is loaded anew when it is wanted", what)
            self._late(future.result())


def _run(load: Callable[[], T], ended: asyncio.Future[T]) -> None:
    try:
        result = load()
    except Exception as error:  # noqa: BLE001 (handed to whoever waits, who raises it)
        _post(ended, ended.set_exception, error)
    except BaseException as error:  # noqa: BLE001 (a runtime that wants to end the process ends its load only)
        _post(ended, ended.set_exception, ActivationError(f"the load ended with {error!r}"))
    else:
        _post(ended, ended.set_result, result)


def _post(ended: asyncio.Future[T], call: Callable[..., None], value: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
        ended.get_loop().call_soon_threadsafe(call, value)
