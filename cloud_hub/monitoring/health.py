"""The hub's health, part by part, always answered in time: a part that hangs is a state, and holds nobody up.

database   answers a query                    asked here, in a thread of its own
objects    shows the signed metadata          asked here, in a thread of its own
clock      agrees with what was signed, and with the database's    asked with the database
broker     the hub is connected to it         told by the connection
ingest     its loop goes round and its steps work    told by the loop
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import HubError, InvalidError
from cloud_hub.monitoring.board import PARTS
from cloud_hub.ports import Part
from cloud_hub.store.engine import make_engine
from cloud_hub.store.tables import Metadata
from cloud_hub.trust.transaction import METADATA

log = logging.getLogger(__name__)
PATIENCE_S = 2.0  # how long an answer waits for a check
FRESH_S = 1.0  # how long the outcome of a check is given again
ANSWER_S = 5  # for PostgreSQL to take a connection, to carry a packet, to answer
SLACK_S = 60.0  # by which clocks may differ


class Probe:
    """A check that may hang: one thread at a time runs it, and whoever asks waits `PATIENCE_S` seconds at most.

    `check` blocks and returns what is wrong, or an empty text; an exception is wrong as well.
    """

    def __init__(self, name: str, check: Callable[[], str], now: Callable[[], float] = time.monotonic) -> None:
        self._name, self._check, self._now = name, check, now
        self._lock = threading.Lock()
        self._running: Future[Part] | None = None
        self._began = 0.0

    async def look(self) -> Part:
        """The outcome of a check that began a moment ago at most, or that there is none yet."""
        future = self._current()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            return Part("failed", f"no answer for {self._now() - self._began:.0f} s")

    def _current(self) -> Future[Part]:
        with self._lock:
            over = self._running is not None and self._running.done() and self._now() - self._began >= FRESH_S
            if self._running is None or over:
                self._running, self._began = Future(), self._now()
                self._running.set_running_or_notify_cancel()  # who stops waiting cancels nothing
                threading.Thread(target=self._run, args=(self._running,), name=self._name, daemon=True).start()
            return self._running

    def _run(self, future: Future[Part]) -> None:
        part = Part("failed", "the check broke off; the hub's log says more")
        try:
            wrong = self._check()
            part = Part("failed", wrong) if wrong else Part("ok")
        except (SQLAlchemyError, HubError, OSError) as error:
            log.warning("%s: %s", self._name, error)
            part = Part("failed", f"it does not answer ({type(error).__name__}); the hub's log says more")
        finally:
            future.set_result(part)  # whatever happened: the next check waits for this one


class HubHealth:
    """The health of one hub, as `/healthz` and `/readyz` answer it.

    Args:
        told: the parts that this process runs and that say themselves how they stand.
    """

    def __init__(self, hub: Hub, told: Sequence[str] = ("broker", "ingest")) -> None:
        self._hub, self._told = hub, told
        self._engine = _own_engine(hub.config.database_url)
        self._clock = Part("unknown", "the database has not answered yet")
        self._probes = {"database": Probe("database", self._database), "objects": Probe("objects", self._objects)}

    async def look(self) -> dict[str, Part]:
        """Every part, within `PATIENCE_S` seconds or little more."""
        database, objects = await asyncio.gather(*(probe.look() for probe in self._probes.values()))
        clock = self._clock if database.state == "ok" else Part("unknown", "the database does not answer")
        board = self._hub.board.read()
        told = {name: board[name] for name in self._told}
        return {"database": database, "objects": objects, **told, "clock": clock}

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _database(self) -> str:
        with self._engine.connect() as connection:
            newest = select(Metadata.created_at).where(Metadata.role == "timestamp")
            signed_at = connection.execute(newest.order_by(col(Metadata.version).desc()).limit(1)).scalar()
            if signed_at is None:
                return "it has no hub in it"
            self._clock = judge_clock(self._hub.clock(), float(signed_at), _time_of(connection))
        return ""

    def _objects(self) -> str:
        return "" if self._hub.objects.exists(METADATA + "timestamp.json") else "the signed metadata is missing"


def judge_clock(now: float, signed_at: float, database: float | None) -> Part:
    """Judge the hub's clock by the time of signed metadata and by the database's clock (None: it has none)."""
    if signed_at - now > SLACK_S:
        return Part(
            "failed",
            f"it says {_date(now)} UTC, and metadata was signed at {_date(signed_at)} UTC: it is behind now, or ran"
            " ahead then; set it",
        )
    if database is not None and abs(database - now) > SLACK_S:
        return Part("failed", f"it says {_date(now)} UTC, and the database's {_date(database)} UTC; set the wrong one")
    return Part("ok")


def status_of(parts: dict[str, Part]) -> Literal["ok", "starting", "failing"]:
    """One word for all parts."""
    states = {part.state for part in parts.values()}
    if states <= {"ok"}:
        return "ok"
    return "starting" if states <= {"ok", "starting"} else "failing"


def without(parts: dict[str, Part], names: list[str]) -> dict[str, Part]:
    """The parts but those named; InvalidError for a name that is none."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise InvalidError(f"no part is called {unknown[0]!r}", subject="exclude", hint=f"one of {', '.join(PARTS)}")
    return {name: part for name, part in parts.items() if name not in names}


def _own_engine(url: str) -> Engine:
    """A connection of its own: the pool of the hub's may be used up by whoever waits for a database that hangs."""
    if make_url(url).get_backend_name() != "postgresql":
        return make_engine(url)
    bounds = {
        "connect_timeout": ANSWER_S,
        "tcp_user_timeout": ANSWER_S * 1000,
        "options": f"-c statement_timeout={ANSWER_S * 1000}",
    }
    return create_engine(url, poolclass=NullPool, connect_args=bounds)


def _time_of(connection: Connection) -> float | None:
    """Return the time of the database's machine; None where that is this one."""
    if connection.dialect.name != "postgresql":
        return None
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _date(moment: float) -> str:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
    return f"{moment:.0f} s"
