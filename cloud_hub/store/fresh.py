"""A cache of values that are read from the database again and again: bounded, and never out of date for long.

    freshness = Freshness(hub)                       # one per process and event loop
    callers = Cache(freshness, most=10_000)
    caller = callers.find(key) or await callers.get(key, load)

`access_version` tells whether anything has changed. The number is asked for by whoever uses the cache, beside the
request when it is older than `SOON_S`, and before the answer when it is older than `MOST_S`: so a change of any
replica is seen within that time, and a change of this process at once. While the database does not answer, nothing
that is kept is used beyond that time: a revocation that cannot be heard of is not taken for none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sqlalchemy import Engine, event

from cloud_hub.errors import BusyError, HubError

SOON_S, MOST_S = 0.25, 0.9  # seconds; a change counts within one second
READERS = 4  # threads that read for all caches: a flood of unknown tokens takes no others
WAITING = 512  # reads that may wait for them

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
log = logging.getLogger(__name__)


class Freshness:
    """The moment at which it was last known that nothing has changed. For one event loop; `expire` from any thread.

    Args:
        read: the number of `access_version`; blocks; None: unknown.
        now: monotonic, seconds.
    """

    def __init__(self, read: Callable[[], int | None], *, now: Callable[[], float] = time.monotonic) -> None:
        self._read, self._now = read, now
        self.generation = 0  # rises when what was read before may be out of date
        self._number: int | None = None
        self._checked_at = float("-inf")
        self._commits = self._checked_commits = 0  # of this process; what was seen of them by the last look
        self._checking: asyncio.Task[None] | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="access")
        self._waiting = 0
        self._failing = False

    def holds(self) -> bool:
        """Tell whether cached values may be used now, without waiting; look again beside it when that is due."""
        age = self._now() - self._checked_at
        if age > SOON_S and self._checking is None:
            self._begin()
        return age <= MOST_S and self._commits == self._checked_commits

    async def check(self) -> None:
        """Wait until all that happened before this call is known; raises what the database raises."""
        commits = self._commits
        while self._now() - self._checked_at > MOST_S or self._checked_commits < commits:
            await asyncio.shield(self._checking or self._begin())

    def expire(self) -> None:
        """Something may have changed in this process: look before anything kept is used again."""
        self._commits += 1

    def watch(self, engine: Engine) -> None:
        """Expire with every transaction that is committed on `engine`."""
        mark = f"committed-{id(self)}"  # every watcher's own, since the first would take it from the others

        def committing(connection: Any) -> None:
            connection.info[mark] = True

        def returned(_connection: Any, record: Any) -> None:
            if record.info.pop(mark, False):
                self.expire()

        event.listen(engine, "commit", committing)  # comes before the commit, which another thread may then overtake
        event.listen(engine, "checkin", returned)

    async def read(self, load: Callable[[], V]) -> V:
        """`load()` in one of the reading threads; BusyError when too many wait for one."""
        if self._waiting >= WAITING:
            raise BusyError("too many tokens and releases are being looked up", subject="access", hint="try again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, load)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the threads end."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> asyncio.Task[None]:
        self._checking = asyncio.get_running_loop().create_task(self._check())
        self._checking.add_done_callback(self._ended)
        return self._checking

    async def _check(self) -> None:
        began, commits = self._now(), self._commits
        try:
            number = await asyncio.get_running_loop().run_in_executor(self._readers, self._read)
        finally:
            self._checking = None  # by its own last step: whoever met it ended would wait for it again without a pause
        if number is None or number != self._number:
            self.generation += 1
            self._number = number
        self._checked_at, self._checked_commits = began, commits

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._checking is task:  # cancelled before its first step
            self._checking = None
        if task.cancelled():
            return
        failure = task.exception()
        if failure is not None and not self._failing:  # once, however many ask meanwhile
            log.warning("whether tokens and releases have changed cannot be read: %s", failure)
        self._failing = failure is not None


class Cache(Generic[K, V]):
    """The `most` least recently used values, and the same number of refusals (HubError), which are kept apart.

    So a flood of tokens that do not exist drives no caller out.
    """

    def __init__(self, freshness: Freshness, *, most: int) -> None:
        self._freshness, self._most = freshness, most
        self._generation = freshness.generation
        self._values: OrderedDict[K, V] = OrderedDict()
        self._refused: OrderedDict[K, HubError] = OrderedDict()
        self._loading: dict[tuple[K, int], asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._values) + len(self._refused)

    def find(self, key: K) -> V | None:
        """The value if it is kept and holds; raises the refusal if that is."""
        return self._kept(key) if self._freshness.holds() else None

    async def get(self, key: K, load: Callable[[], V]) -> V:
        """The value, kept or loaded; many that want it at once load it once. Raises what `load` raises."""
        await self._freshness.check()
        found = self._kept(key)
        if found is not None:
            return found
        place = key, self._freshness.generation  # one that began before a change may bring what was before it
        task = self._loading.get(place)
        if task is None:
            task = self._loading[place] = asyncio.get_running_loop().create_task(self._load(key, load))
            task.add_done_callback(lambda done: self._loaded(place, done))
        try:
            return await asyncio.shield(task)
        except HubError as error:
            raise _again(error) from None

    def _kept(self, key: K) -> V | None:
        if self._generation != self._freshness.generation:
            self._forget()
            return None
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        elif key in self._refused:
            self._refused.move_to_end(key)
            raise _again(self._refused[key])
        return value

    async def _load(self, key: K, load: Callable[[], V]) -> V:
        generation = self._freshness.generation
        try:
            value = await self._freshness.read(load)
        except HubError as error:
            if error.status in (401, 403, 404):
                self._keep(self._refused, key, error, generation)
            raise
        self._keep(self._values, key, value, generation)
        return value

    def _keep(self, kept: OrderedDict[K, Any], key: K, value: object, generation: int) -> None:
        """Keep what was read in `generation`; what changed meanwhile may not be in it."""
        if generation != self._freshness.generation:
            return
        if self._generation != generation:
            self._forget()
        kept[key] = value
        if len(kept) > self._most:
            kept.popitem(last=False)

    def _forget(self) -> None:
        self._values.clear()
        self._refused.clear()
        self._generation = self._freshness.generation

    def _loaded(self, place: tuple[K, int], task: asyncio.Task[V]) -> None:
        del self._loading[place]
        if not task.cancelled():
            task.exception()  # whoever waited has heard it


def _again(error: HubError) -> HubError:
    """A new error that says the same: one that is raised again and again would gather tracebacks."""
    return type(error)(str(error), subject=error.subject, hint=error.hint)
