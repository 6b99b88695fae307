"""Many rows by one statement, as fast as the database takes them.

PostgreSQL is sent one array for each column, so that the text of the statement, and with it the plan, is the same for
any number of rows; SQLite steps one prepared statement. Rows are tuples of what the driver takes: a document is text
(`types.document_text`). Whatever is refused fails the statement, and with it the transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, FromClause, Table, and_, any_, bindparam, func, select
from sqlalchemy.dialects import postgresql
from sqlmodel import Session, SQLModel

Row = tuple[Any, ...]


def insert(session: Session, kind: type[SQLModel], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Add rows; each is a value for each of the columns.

    Args:
        session: an open one.
        kind: the table.
        columns: their names.
        rows: values in the order of `columns`.
    """
    _run(session, _insert(_table(kind), columns, _postgres(session)), rows)


def upsert(
    session: Session,
    kind: type[SQLModel],
    columns: tuple[str, ...],
    rows: Sequence[Row],
    *,
    only_new: Row = (),
    most: str = "",
) -> None:
    """Add rows, or write them over those of the same primary key, of which no two may be the same.

    Args:
        columns: the primary key's are among them.
        only_new: columns that are left as they are in a row that is there already.
        most: a column; a row that is there already and has more of it is left as it is.
    """
    _run(session, _upsert(_table(kind), columns, only_new, most, _postgres(session)), rows)


def update(session: Session, kind: type[SQLModel], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Write over columns of rows that are there; the last of `columns` is the primary key.

    Args:
        session: an open one.
        kind: the table.
        columns: their names, the primary key last.
        rows: values in the order of `columns`.
    """
    _run(session, _update(_table(kind), columns, _postgres(session)), rows)


def delete(session: Session, kind: type[SQLModel], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Delete the rows that have these values in some columns, which are the first of a key.

    Args:
        session: an open one.
        kind: the table.
        columns: their names, the first ones of a key.
        rows: values in the order of `columns`.
    """
    _run(session, _delete(_table(kind), columns, _postgres(session)), rows)


def listed(session: Session, kind: type[SQLModel], columns: tuple[str, ...], rows: Collection[Row]) -> FromClause:
    """Values of some columns of a table as a table of its own, which is sent as one, to join others from.

    A row's values `IN` a list of rows would do the same, but SQLite reads the whole table for it.

    Args:
        session: an open one.
        kind: the table whose types the values have.
        columns: their names.
        rows: values in the order of `columns`.
    """
    kinds = [_table(kind).c[name].type for name in columns]
    if _postgres(session):
        values = zip(*rows, strict=True) if rows else [() for _ in columns]
        arrays = [bindparam(None, list(some), type_=ARRAY(type_)) for some, type_ in zip(values, kinds, strict=True)]
        return func.unnest(*arrays).table_valued(*columns).render_derived()
    each = func.json_each(json.dumps([list(row) for row in rows])).table_valued("value")
    places = [func.json_extract(each.c.value, f"$[{place}]", type_=type_) for place, type_ in enumerate(kinds)]
    return select(*(place.label(name) for place, name in zip(places, columns, strict=True))).subquery()


def same(kind: type[SQLModel], values: FromClause) -> ColumnElement[bool]:
    """Match rows of a table that have the values of a row of `listed`."""
    return and_(*(_table(kind).c[value.name] == value for value in values.c))


def one_of(session: Session, column: Any, values: Collection[int]) -> ColumnElement[bool]:
    """Match a column of whole numbers against many values, which are sent as one.

    Args:
        session: an open one.
        column: of a table.
        values: any number of them.
    """
    if _postgres(session):
        same: ColumnElement[bool] = column == any_(bindparam(None, list(values), type_=ARRAY(BigInteger)))
        return same
    each = func.json_each(json.dumps(list(values))).table_valued("value")
    found: ColumnElement[bool] = column.in_(select(each.c.value))
    return found


def _run(session: Session, statement: str, rows: Sequence[Row]) -> None:
    if not rows:
        return
    if _postgres(session):
        session.connection().exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))
    else:
        session.connection().exec_driver_sql(statement, list(rows))


def _postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _table(kind: type[SQLModel]) -> Table:
    table: Table = kind.__table__  # type: ignore[attr-defined]
    return table


@cache
def _insert(table: Table, columns: tuple[str, ...], postgres: bool) -> str:
    into = f'INSERT INTO "{table.name}" ({_names(columns)})'
    if postgres:
        return f"{into} SELECT * FROM {_arrays(table, columns)}"  # noqa: S608  # names of tables and columns of ours
    return f"{into} VALUES ({', '.join('?' * len(columns))})"


@cache
def _upsert(table: Table, columns: tuple[str, ...], only_new: tuple[str, ...], most: str, postgres: bool) -> str:
    key = tuple(column.name for column in table.primary_key)
    new = [f'"{name}" = excluded."{name}"' for name in columns if name not in key + only_new]
    unless = f' WHERE "{table.name}"."{most}" <= excluded."{most}"' if most else ""
    return f"{_insert(table, columns, postgres)} ON CONFLICT ({_names(key)}) DO UPDATE SET {', '.join(new)}{unless}"


@cache
def _update(table: Table, columns: tuple[str, ...], postgres: bool) -> str:
    *written, key = columns
    if postgres:
        new = ", ".join(f'"{name}" = new."{name}"' for name in written)
        source = f"{_arrays(table, columns)} AS new ({_names(columns)})"
        return f'UPDATE "{table.name}" AS old SET {new} FROM {source} WHERE old."{key}" = new."{key}"'  # noqa: S608
    new = ", ".join(f'"{name}" = ?' for name in written)
    return f'UPDATE "{table.name}" SET {new} WHERE "{key}" = ?'  # noqa: S608


@cache
def _delete(table: Table, columns: tuple[str, ...], postgres: bool) -> str:
    if postgres:
        these = " AND ".join(f'old."{name}" = gone."{name}"' for name in columns)
        source = f"{_arrays(table, columns)} AS gone ({_names(columns)})"
        return f'DELETE FROM "{table.name}" AS old USING {source} WHERE {these}'  # noqa: S608
    these = " AND ".join(f'"{name}" = ?' for name in columns)
    return f'DELETE FROM "{table.name}" WHERE {these}'  # noqa: S608


def _names(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def _arrays(table: Table, columns: Sequence[str]) -> str:
    """As many rows as the arrays have values; `%b`: they are sent as they are, and not as text."""
    kinds = (table.c[name].type.compile(postgresql.dialect()) for name in columns)  # type: ignore[no-untyped-call]
    return f"unnest({', '.join(f'%b::{kind}[]' for kind in kinds)})"
