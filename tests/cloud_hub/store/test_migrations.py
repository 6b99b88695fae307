"""The migrations make the tables, undo themselves, and miss nothing; on SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import inspect

from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import differences, downgrade, upgrade


def test_up_check_down_up(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine)
    assert differences(engine) == []
    assert {"device", "release", "metadata", "channel"} <= set(inspect(engine).get_table_names())
    downgrade(engine)
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    upgrade(engine)
    upgrade(engine)
    assert differences(engine) == []
    engine.dispose()
