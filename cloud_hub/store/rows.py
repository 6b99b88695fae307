"""Reading few columns of many rows, as plain tuples: an object for each row of a large fleet takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlmodel import Session, col

CHUNK = 500  # ids in one statement


def rows_by_key(session: Session, wanted: Any, key: Any, ids: Sequence[str] | None) -> Iterator[Any]:
    """Yield the rows of a statement, or of it those whose column `key` is one of some ids (in parts).

    Args:
        session: an open one.
        wanted: the statement.
        key: the column that the ids are of.
        ids: those to read; None for all rows.
    """
    if ids is None:
        yield from session.connection().execute(wanted).all()
        return
    for at in range(0, len(ids), CHUNK):
        yield from session.connection().execute(wanted.where(col(key).in_(ids[at : at + CHUNK]))).all()
