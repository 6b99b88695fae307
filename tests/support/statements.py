"""Counts the statements that reach a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, event


@dataclass
class Statements:
    """The number of statements; `texts` are the different ones, with their counts."""

    statements: int = 0
    texts: dict[str, int] = field(default_factory=dict)


@contextmanager
def counted(engine: Engine) -> Iterator[Statements]:
    """Count within the block.

    PostgreSQL executes a statement for many rows once for each of them, and so it counts; SQLite is in the process, and
    steps the statement that it has prepared.
    """
    found = Statements()

    def executes(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        count = len(parameters) if many and engine.dialect.name != "sqlite" else 1
        found.statements += count
        found.texts[statement] = found.texts.get(statement, 0) + count

    event.listen(engine, "before_cursor_execute", executes)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", executes)
