"""Races that are forced: somebody comes in between another's reading and its writing, every time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event

DEADLINE_S = 200.0  # for what takes no second: a machine may be busy


class Meanwhile:
    """Runs calls in threads of their own; each is left alone once it has ended, or waits for the database's lock.

    So a test that calls from within a transaction goes on in both worlds: where the other is let in between (the
    fault), it has ended by then; where it has to wait, it ends after the transaction.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(8)
        self._begun = 0
        event.listen(engine, "before_cursor_execute", self._executes)

    def _executes(self, connection: Connection, cursor: Any, statement: str, *more: Any) -> None:
        if statement == "BEGIN IMMEDIATE":
            self._begun += 1  # on SQLite this one is about to ask for the only write lock

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        """Start `function`; returns when it has ended or waits."""
        before = self._begun
        future = self._pool.submit(function, *arguments, **named)
        end = time.monotonic() + DEADLINE_S
        while not (future.done() or self._waits(before)):
            assert time.monotonic() < end
            time.sleep(0.002)
        return future

    def _waits(self, before: int) -> bool:
        if self._engine.dialect.name == "sqlite":
            return self._begun > before
        url = self._engine.url
        found = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        with psycopg.connect(host=url.host, port=url.port, user=url.username, dbname=url.database) as connection:
            return connection.execute(found).fetchone() is not None

    def close(self) -> None:
        """Wait for every call."""
        self._pool.shutdown()
        event.remove(self._engine, "before_cursor_execute", self._executes)


def between(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, other: Callable[[], Any], *, times: int = 1
) -> None:
    """Have `other` called right after `owner.name` was, the first `times` times: between reading and writing."""
    original, left = getattr(owner, name), [times]

    def hooked(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        if left[0] > 0:
            left[0] -= 1
            other()
        return result

    monkeypatch.setattr(owner, name, hooked)
