"""A consistent copy of a hub's database that runs meanwhile, as a SQLite file, and back into either database.

SQLite is copied by its online backup in one step, which holds up no writer (the hub's database has a write-ahead log).
PostgreSQL is read table by table in one read-only transaction of isolation level REPEATABLE READ, which is one moment.
As both come out as the same file, a hub can also move from one database to the other.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url
from sqlmodel import Session, SQLModel, select

from cloud_hub.errors import ConflictError, InvalidError
from cloud_hub.store.engine import make_engine
from cloud_hub.store.locks import Lock, hold_lock
from cloud_hub.store.migrate import behind, upgrade
from cloud_hub.store.tables import Metadata
from cloud_hub.store.types import Json
from cloud_hub.store.words import check_is_there, spoken
from fleet.durable import sync

ROWS = 1000  # that are copied at a time
TRIGGERED = ("setting", "device_change")  # what triggers write when rows of the other tables come
PATIENCE_S = 10.0  # a worker ends some seconds after its hub
LIVING = "end the hub, its workers and every other program that uses it first"


def is_sqlite(url: str) -> bool:
    """Tell whether the database is a file."""
    return make_url(url).get_backend_name() == "sqlite"


def file_of(url: str) -> Path:
    """The file of a SQLite database."""
    return Path(make_url(url).database or "")


def copy_out(url: str, target: Path) -> None:
    """Write the database as it is at one moment into the new file `target` (0600), while others use it.

    Raises:
        NotFoundError, UnreachableError: it is not there. InvalidError: it is damaged.
        ConflictError: it is not at the migration of this program.
    """
    check_is_there(url)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with spoken(), _engine(url) as engine:
        if behind(engine.execution_options(edgeloop_read=True)):  # waits for no writer
            hint = "back it up with the version of Edgeloop that runs it, or start that hub once with this one"
            raise ConflictError("the database is not at the version of this program", subject="database", hint=hint)
        if is_sqlite(url):
            _copy_file(file_of(url), target)
        else:
            _copy_rows_out(engine, target)
        _settle(target)


def _copy_file(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source, timeout=30.0)) as live,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)


def _copy_rows_out(source: Engine, target: Path) -> None:
    with _engine(f"sqlite:///{target}") as made:
        upgrade(made)
        reading = source.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with reading.connect() as live, made.begin() as copy:
            _copy_rows(live.execution_options(stream_results=True, max_row_buffer=ROWS), copy)


def copy_in(file: Path, url: str) -> None:
    """Put the rows of the SQLite file `file`, which is at the newest migration, into PostgreSQL in one transaction.

    What was there before is gone with the commit, and stays when anything fails.

    Raises:
        ConflictError: somebody else is connected to the database. UnreachableError: it does not answer.
    """
    with spoken(), _engine(url) as target, _engine(f"sqlite:///{file}") as source:
        upgrade(target)
        reading = source.execution_options(edgeloop_read=True)
        with target.begin() as copy, reading.connect() as kept:
            hold_lock(copy, Lock.MIGRATING)
            _refuse_living(copy)
            _copy_rows(kept, copy)
            _number_on(copy)
            _refuse_living(copy)


def check_unused(url: str, *, replace: bool) -> None:
    """See that a restore may write the database.

    Raises:
        ConflictError: a hub was made in it and `replace` is not set, or somebody uses it now.
    """
    if is_sqlite(url):
        path = file_of(url)
        if path.exists() and path.stat().st_size:
            _refuse_hub(f"the database {path}", replace)
            _refuse_open(path)
        return
    with spoken(), _engine(url) as engine, engine.connect() as connection:
        if (
            sa.inspect(connection).has_table("metadata")
            and connection.execute(sa.select(sa.func.count()).select_from(sa.table("metadata"))).scalar_one()
        ):
            _refuse_hub("the database", replace)
        _refuse_living(connection)


def _refuse_hub(what: str, replace: bool) -> None:
    if not replace:
        hint = "give an empty one (--database URL), or say --replace to lose what it holds now"
        raise ConflictError(f"{what} holds a hub already", subject="database", hint=hint)


def _refuse_open(path: Path) -> None:
    """A database with a write-ahead log gives it up only when nobody else has it open."""
    until = time.monotonic() + PATIENCE_S
    with contextlib.closing(sqlite3.connect(path, timeout=0.0)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=DELETE")
            except sqlite3.OperationalError as error:
                if time.monotonic() > until:
                    raise ConflictError(f"{path} is in use", subject=str(path), hint=LIVING) from error
                time.sleep(0.1)
                continue
            except sqlite3.DatabaseError:
                return  # what is damaged may be replaced
            return


def _refuse_living(connection: Connection) -> None:
    others = connection.execute(
        sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND usesysid IS NOT NULL"  # what vacuums has no user
        )
    ).scalar_one()
    if others:
        what = f"{others} other connection{'s' * (others > 1)} to the database"
        raise ConflictError(f"the database is in use: {what}", subject="database", hint=LIVING)


def revision(file: Path) -> str:
    """The migration that a database file is at; InvalidError when it is no hub's or damaged."""
    with spoken(), contextlib.closing(_read_only(file)) as connection:
        said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if said != "ok":
            raise InvalidError(f"the database in the backup is damaged: {said}", subject=str(file))
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(rows) != 1:
        raise InvalidError("the database in the backup has no version", subject=str(file))
    return str(rows[0][0])


def first_root(file: Path) -> bytes:
    """The first signed root in a database file; InvalidError when there is none."""
    with opened(file) as session:
        root = session.exec(select(Metadata.body).where(Metadata.role == "root", Metadata.version == 1)).first()
    if root is None:
        raise InvalidError("the database has no hub in it", subject=str(file))
    return root


def bring_up(file: Path, change: Callable[[Session], None]) -> None:
    """Bring a copy of a backup's database to the newest migration, and make `change` in it."""
    with spoken(), _engine(f"sqlite:///{file}") as engine:
        upgrade(engine)
        with Session(engine) as session, session.begin():
            change(session)
    _settle(file)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Session]:
    """A session that reads a database file."""
    engine = sa.create_engine("sqlite://", creator=lambda: _read_only(file), poolclass=sa.NullPool)
    with spoken(), Session(engine) as session:
        yield session


def _read_only(file: Path) -> sqlite3.Connection:
    """Not a byte of a backup changes, so that its hash stays."""
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True)


def _copy_rows(source: Connection, target: Connection) -> None:
    tables = [_plain(table) for table in SQLModel.metadata.sorted_tables]
    for table in reversed(tables):
        target.execute(sa.delete(table))
    tables.sort(key=lambda table: table.name in TRIGGERED)
    for table in tables:
        if table.name in TRIGGERED:
            target.execute(sa.delete(table))
        for part in source.execute(sa.select(table)).mappings().partitions(ROWS):
            target.execute(sa.insert(table), [dict(row) for row in part])


def _plain(table: sa.Table) -> Any:
    """The table with its documents as the text that they are kept as."""
    types = {column.name: sa.Text() if isinstance(column.type, Json) else column.type for column in table.columns}
    return sa.table(table.name, *(sa.column(name, kind) for name, kind in types.items()))


def _number_on(target: Connection) -> None:
    """Let PostgreSQL number new rows above the ones that came with their numbers."""
    for table in SQLModel.metadata.sorted_tables:
        (key, *others) = table.primary_key.columns
        if others or not isinstance(key.type, sa.Integer):
            continue
        name = sa.text("SELECT pg_get_serial_sequence(:table, :key)")
        sequence = target.execute(name, {"table": f'"{table.name}"', "key": key.name}).scalar_one()
        if sequence is not None:
            top = target.execute(sa.select(sa.func.max(key))).scalar_one()
            target.execute(
                sa.text("SELECT setval(:sequence, :top, :used)"),
                {"sequence": sequence, "top": top or 1, "used": top is not None},
            )


def _settle(file: Path) -> None:
    """Make one file of it, whole and on the disk."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        hint = "stop the hub and check its disk; restore an earlier backup if it does not start"
        raise InvalidError(f"the database is damaged: {said}", subject="database", hint=hint)
    sync(file)


@contextlib.contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()
