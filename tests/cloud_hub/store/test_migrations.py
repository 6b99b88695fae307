"""The migrations make the tables, undo themselves, and miss nothing; on SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import inspect, text

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


def test_certificates_that_devices_had_are_kept_as_their_current_ones(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine, "0002")
    device = {
        "id": "cam-1", "public_key": "K", "key_fingerprint": "f", "certificate": "C", "certificate_serial": "a1",
        "certificate_expires_at": 9.0, "mqtt_password": "", "channel": "stable", "labels": "{}", "pins": "{}",
        "info": "{}", "enrolled_at": 3.0, "online": False, "session": "", "command_counter": 0,
    }  # fmt: skip
    names = ", ".join(device)
    with engine.begin() as connection:
        values = ", ".join(f":{name}" for name in device)
        connection.execute(text(f"INSERT INTO device ({names}) VALUES ({values})"), device)
    upgrade(engine)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT serial, device_id, state, expires_at FROM certificate")).all()
    assert [tuple(row) for row in found] == [("a1", "cam-1", "current", 9.0)]
    engine.dispose()
