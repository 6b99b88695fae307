"""Migrations, run by `init` and `serve`: no alembic.ini, the engine is handed over."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

from cloud_hub.errors import ConflictError, UnreachableError
from cloud_hub.store import tables
from cloud_hub.store.engine import make_engine
from cloud_hub.store.locks import Lock, hold_lock

WAIT_S = 5.0  # for a table that somebody writes; who comes after them waits as long
TRIES = 30  # longer than a transaction may be idle (`engine.PAUSED_S`)
AGAIN = ("55P03", "40P01")  # PostgreSQL's lock_not_available, deadlock_detected
log = logging.getLogger(__name__)
_SCRIPTS = Path(__file__).parent / "migrations"
assert tables.Model.metadata is SQLModel.metadata  # importing the tables fills it


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration over an open connection."""
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database to `revision`; nothing happens when it is there.

    Replicas that start at once wait for each other. One that meets hubs that write, as in a rolling upgrade, lets
    them through and begins again as a whole.

    Raises:
        UnreachableError: there is no database.
        ConflictError: its tables were in use all the time.
    """
    for _ in range(TRIES):
        try:
            return _upgrade(engine, revision)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in AGAIN:
                raise
            log.warning("the migration waits for hubs that write, and begins again: %s", error.orig)
    hint = "stop the other hubs, or whoever else holds tables of this database, and start again"
    raise ConflictError("the database cannot be migrated: its tables are in use", subject="database", hint=hint)


def _upgrade(engine: Engine, revision: str) -> None:
    try:
        connecting = engine.connect()
    except OperationalError as error:
        hint = "check the database's address, and that it runs"
        raise UnreachableError(f"the database does not answer: {error.orig}", subject="database", hint=hint) from error
    with connecting as connection, connection.begin():
        hold_lock(connection, Lock.MIGRATING)
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_S}s'"))
        if revision != "head" or _revisions(connection) != _newest():
            command.upgrade(alembic_config(connection), revision)


def behind(engine: Engine) -> bool:
    """Tell whether the database lacks a migration, or has one that is unknown here; changes nothing."""
    with engine.connect() as connection:
        return _revisions(connection) != _newest()


def strange(engine: Engine) -> str:
    """The migration of the database that is unknown here, since a newer hub has made it; empty: there is none."""
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    with engine.connect() as connection:
        return ", ".join(sorted(_revisions(connection) - known))


def _revisions(connection: Connection) -> set[str]:
    return set(MigrationContext.configure(connection).get_current_heads())


@cache  # to import every migration costs more than all else that opens a hub's database
def _newest() -> set[str]:
    return set(ScriptDirectory.from_config(alembic_config()).get_heads())


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the database back to `revision`."""
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), revision)


def differences(engine: Engine) -> list[object]:
    """Return how the database differs from the tables; empty when the migrations are complete."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        return list(compare_metadata(context, SQLModel.metadata))


def write_revision(number: str, message: str, scripts: Path = _SCRIPTS) -> Path:
    """Write the migration from the newest revision to the tables as they are now; returns its file.

    For developers: `python -c "from cloud_hub.store.migrate import write_revision as w; w('0002', 'Add …')"`.

    Args:
        number: of the revision, four digits.
        message: what it does, the rest of its file's name.
        scripts: the folder of migrations.
    """
    engine = make_engine("sqlite://")
    with engine.begin() as connection:
        config = alembic_config(connection)
        config.set_main_option("script_location", str(scripts))
        command.upgrade(config, "head")
        command.revision(config, message=message, autogenerate=True, rev_id=number)
    engine.dispose()
    return next((scripts / "versions").glob(f"{number}_*.py"))
