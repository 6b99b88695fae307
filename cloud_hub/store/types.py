"""Column types that behave alike on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Text, text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field


class Json(TypeDecorator[Any]):
    """A JSON document kept as text with sorted keys: the same bytes on every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Python value to text."""
        return None if value is None else document_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Text to Python value."""
        return None if value is None else msgspec.json.decode(value)


def document_text(value: Any) -> str:
    """A document as a `Json` column keeps it."""
    return msgspec.json.encode(value, order="deterministic").decode()


# SQLite's INTEGER has 64 bits, and only a column of that very name numbers its rows by itself.
Whole = BigInteger().with_variant(Integer(), "sqlite")


def json_field(default: Any) -> Any:
    """A field of a table that holds a document; `default` makes an empty one."""
    return Field(default_factory=default, sa_column=Column(Json, nullable=False))


def some_rows(name: str, columns: tuple[str, ...], rule: str, *, postgres: str = "", unique: bool = False) -> Index:
    """An index over the rows of a table that a rule (SQL) holds for: small where few do.

    A query uses it only where its own condition has the rule's very words, with values in place and not bound.

    Args:
        name: of the index.
        columns: that it sorts by.
        rule: SQL, as SQLite takes it.
        postgres: the same for PostgreSQL, where it differs.
        unique: no two rows of the rule are alike in `columns`.
    """
    return Index(name, *columns, unique=unique, sqlite_where=text(rule), postgresql_where=text(postgres or rule))


def widen(metadata: MetaData) -> None:
    """Give every whole number of every table 64 bits: PostgreSQL's `integer` ends at 2,147,483,647, which counters,
    record numbers of devices and the windows of a large fleet reach."""
    for table in metadata.tables.values():
        for column in table.columns:
            if type(column.type) is Integer:
                column.type = Whole
