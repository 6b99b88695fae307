"""The faults of a database, as a sentence with a hint."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from alembic.util.exc import CommandError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from cloud_hub.errors import HubError, InvalidError, NotFoundError, UnreachableError

RESTORE = "restore it from a backup"
_DAMAGED = ("malformed", "not a database", "corrupt", "no such table", "UndefinedTable", "does not exist")


@contextlib.contextmanager
def spoken() -> Iterator[None]:
    """Turn the database's errors of the block into the hub's own.

    Raises:
        InvalidError: the database is damaged, or of a newer version. UnreachableError: it does not answer.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error, CommandError) as error:
        raise explained(error) from error


def explained(error: DBAPIError | sqlite3.Error | CommandError) -> HubError:
    """Return the hub's error for a database's `error`, in words with a hint."""
    if isinstance(error, CommandError):
        hint = "run the version of Edgeloop that used it last, or a newer one"
        return InvalidError(f"the database is of another version: {error}", subject="database", hint=hint)
    said = f"{error.orig if isinstance(error, DBAPIError) else error}".strip().split("\n")[0]
    kind = type(error.orig if isinstance(error, DBAPIError) else error).__name__
    if any(word in said or word in kind for word in _DAMAGED):
        return InvalidError(f"the database is damaged: {said}", subject="database", hint=RESTORE)
    if isinstance(error, OperationalError | sqlite3.OperationalError):
        hint = "check the database's address, and that it runs"
        return UnreachableError(f"the database does not answer: {said}", subject="database", hint=hint)
    return InvalidError(f"the database refuses: {said}", subject="database")


def check_is_there(url: str) -> None:
    """Raise NotFoundError when the file of a SQLite database is missing or empty: opening it would make a new one."""
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite" or not parts.database or parts.database == ":memory:":
        return
    path = Path(parts.database)
    if not path.exists() or path.stat().st_size == 0:
        what = "is empty" if path.exists() else "is missing"
        raise NotFoundError(f"the hub's database {path} {what}", subject=str(path), hint=RESTORE)
