"""Pages are told when something has changed: a stream of server-sent events for each that is looked at.

One task looks at the database once a second for all streams of this hub, as long as there are any; streams wait for
its turns, and ask nothing but whether their session still holds, before each thing that they say. So the change may
have been made by another hub, a worker or a person with `psql`. A stream says `moved`, never what: the page asks for
itself again, as it does every few seconds where it has no stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from fastapi import APIRouter, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cloud_hub.api.access import HubDep
from cloud_hub.dashboard.access import COOKIE, Visitor, operator_of
from cloud_hub.dashboard.rendering import HEADERS
from cloud_hub.errors import BusyError, HubError, RateError

log = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)
MOST, OF_ONE = 128, 16  # streams of a hub, and of one operator: windows that are looked at
TURN_S = 1.0
GAP_S = 4.0  # between two things that one page is told: no busy fleet makes it ask more often than without a stream
ALIVE_S = 15.0  # a stream that says nothing for longer is dead, and no proxy takes it for that
LIFE_S = 3600.0  # then the page opens the next one, with the cookie that it has by then


class Marks(Protocol):
    """The marks by which to see that the data has moved; see `cloud_hub.store.moved`."""

    def mark(self) -> str:
        """Another text than before when something has changed."""
        ...

    def close(self) -> None:
        """Nobody wants to know for now."""
        ...


class Live:
    """The streams of one hub. All but `marks` is used on the event loop alone; `end` ends them for good."""

    def __init__(
        self,
        marks: Marks,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._marks, self._pause, self._now = marks, pause, now
        self._of = Counter[str]()
        self._looking: asyncio.Task[None] | None = None
        self._turn = asyncio.Event()
        self._known: str | None = None
        self._version = 0
        self._ended = False

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return self._of.total()

    @contextmanager
    def place(self, actor: str) -> Iterator[None]:
        """A stream's place among the others.

        Raises:
            BusyError: the hub has no more, or ends. RateError: this operator has `OF_ONE` already.
        """
        hint = "the page asks by itself every few seconds"
        if self._ended or self.streams >= MOST:
            raise BusyError(f"{MOST} pages of this hub are told of changes already", subject="live", hint=hint)
        if self._of[actor] >= OF_ONE:
            raise RateError(f"{OF_ONE} pages of yours are told of changes already", subject="live", hint=hint)
        self._of[actor] += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="dashboard-live")
        try:
            yield
        finally:
            self._of -= Counter({actor: 1})  # drops those that have none

    async def follow(self, holds: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Yield the events of a stream, until its session ends, its life is over, or the hub ends.

        Args:
            holds: tells whether the session still does; it is called in a thread.
        """
        yield b"retry: 5000\n\n"
        told, told_at, spoke_at, began = -1, -GAP_S, self._now(), self._now()
        told_at += began
        while not self._ended and self._now() - began < LIFE_S:
            now, version, turn = self._now(), self._version, self._turn
            looked = self._known is not None  # else a change before the first look would be nobody's
            moved = looked and version != told and now - told_at >= GAP_S
            if moved or now - spoke_at >= ALIVE_S:
                if not await asyncio.to_thread(holds):
                    return
                yield b"event: %b\ndata: %d\n\n" % (b"moved" if moved else b"alive", version)
                spoke_at = now
            if moved:
                told, told_at = version, now
            if not self._ended:
                await turn.wait()
            if self._looking is None:  # it came to grief; the page comes back, and begins another
                return

    def end(self) -> None:
        """End every stream, and refuse new ones: a server that stops waits for all that it answers."""
        self._ended = True
        self._turn.set()

    async def _look(self) -> None:
        """Once a second while there are streams; what comes to grief ends them."""
        try:
            while self._of and not self._ended:
                mark = await asyncio.to_thread(self._marks.mark)
                self._version += self._known is not None and mark != self._known
                self._known = mark
                turn, self._turn = self._turn, asyncio.Event()
                turn.set()
                await self._pause(TURN_S)
        except Exception:  # the boundary: nobody waits for this task
            log.exception("streams of the dashboard end: the look at the database failed")
        finally:
            self._looking, self._known = None, None
            turn, self._turn = self._turn, asyncio.Event()
            turn.set()
            self._marks.close()


class LiveResponse(StreamingResponse):
    """The stream as an answer, which has its place from its first byte to its last."""

    def __init__(self, live: Live, actor: str, holds: Callable[[], bool]) -> None:
        headers = {**HEADERS, "X-Accel-Buffering": "no"}  # a proxy that gathers an answer first would say nothing
        super().__init__(live.follow(holds), media_type="text/event-stream", headers=headers)
        self._live, self._actor = live, actor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; BusyError or RateError before anything was sent."""
        with self._live.place(self._actor):
            await super().__call__(scope, receive, send)


@router.get("/live")
async def live(request: Request, hub: HubDep, caller: Visitor) -> Response:
    """A stream of server-sent events: `moved` when something has changed, else `alive` now and then."""
    token = request.cookies.get(COOKIE, "")

    def holds() -> bool:
        try:
            return operator_of(hub, token) == caller
        except (HubError, SQLAlchemyError):
            return False

    return LiveResponse(request.app.state.live, caller.actor, holds)
