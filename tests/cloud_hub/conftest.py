"""Fixtures of the hub's tests: a real hub on SQLite, and database URLs for both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import migrated_postgres, migrated_sqlite
from tests.support.hub import HubFixture, make_hub
from tests.support.postgres import cluster, create_database


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    """A new hub in a temporary directory."""
    return make_hub(tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL cluster of this test run."""
    with cluster() as connection:
        yield connection


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return create_database(request.getfixturevalue("postgres"), "edgeloop_test")


@pytest.fixture(params=["sqlite", "postgresql"])
def hub_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database of each kind, to make a hub in."""
    if request.param == "sqlite":
        return migrated_sqlite(tmp_path / "test.db")
    return migrated_postgres(request.getfixturevalue("postgres"), "edgeloop_test")
