"""The migrations make the tables, undo themselves, and miss nothing; on SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import inspect

from cloud_hub.store import migrate
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


def test_a_new_revision_holds_what_changed(tmp_path: Path) -> None:
    """Nothing changed since the newest migration, so the next one would be empty."""
    scripts = tmp_path / "migrations"
    shutil.copytree(Path(migrate.__file__).parent / "migrations", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    path = migrate.write_revision("9999", "Nothing", scripts)
    text = path.read_text()
    assert 'revision = "9999"' in text or "revision = '9999'" in text
    assert "op." not in text and text.count("pass") == 2
