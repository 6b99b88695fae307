"""Databases that are migrated already: the migrations run once in a process, then their outcome is copied.

A hub that is made in one finds nothing left to migrate, and makes keys, certificates and repository of its own.
Tests of the migrations themselves begin with an empty database (`tests.support.postgres.create_database`).
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import upgrade
from tests.support.postgres import create_database


def migrated_sqlite(path: Path) -> str:
    """Write a migrated SQLite file; returns its SQLAlchemy URL."""
    path.write_bytes(_migrated_file())
    return f"sqlite:///{path}"


def migrated_postgres(connection: str, name: str) -> str:
    """A fresh migrated database in a cluster, in place of one of that name; returns its SQLAlchemy URL."""
    return create_database(connection, name, template=_template(connection))


@cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "migrated.db"
        _migrate(f"sqlite:///{path}")
        return path.read_bytes()


@cache
def _template(connection: str) -> str:
    name = "edgeloop_migrated"
    _migrate(create_database(connection, name))
    return name


def _migrate(url: str) -> None:
    engine = make_engine(url)
    upgrade(engine)
    engine.dispose()  # PostgreSQL copies only a database that nobody uses; SQLite's last reader folds the log in
