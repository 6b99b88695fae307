"""Migrations, run by `init` and `serve`: no alembic.ini, the engine is handed over."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

from cloud_hub.errors import UnreachableError
from cloud_hub.store import tables
from cloud_hub.store.engine import make_engine

MIGRATION_LOCK = 0x_E0_6E_10_0A
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

    Replicas that start at once wait for each other. Raises UnreachableError when there is no database.
    """
    try:
        connecting = engine.connect()
    except OperationalError as error:
        hint = "check the database's address, and that it runs"
        raise UnreachableError(f"the database does not answer: {error.orig}", subject="database", hint=hint) from error
    with connecting as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        command.upgrade(alembic_config(connection), revision)


def behind(engine: Engine) -> bool:
    """Whether the database lacks a migration, or has one that is unknown here; changes nothing."""
    newest = set(ScriptDirectory.from_config(alembic_config()).get_heads())
    with engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) != newest


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the database back to `revision`."""
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), revision)


def differences(engine: Engine) -> list[object]:
    """How the database differs from the tables; empty when the migrations are complete."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        return list(compare_metadata(context, SQLModel.metadata))


def write_revision(number: str, message: str, scripts: Path = _SCRIPTS) -> Path:
    """Write the migration from the newest revision to the tables as they are now; returns its file.

    For developers: `python -c "from cloud_hub.store.migrate import write_revision as w; w('0002', 'Add …')"`.
    """
    engine = make_engine("sqlite://")
    with engine.begin() as connection:
        config = alembic_config(connection)
        config.set_main_option("script_location", str(scripts))
        command.upgrade(config, "head")
        command.revision(config, message=message, autogenerate=True, rev_id=number)
    engine.dispose()
    return next((scripts / "versions").glob(f"{number}_*.py"))
