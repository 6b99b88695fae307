"""The migrations make the tables, undo themselves, and miss nothing; on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sqlalchemy import inspect, text
from sqlmodel import Session, select

from cloud_hub.drift import scope
from cloud_hub.store import migrate
from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import differences, downgrade, upgrade
from cloud_hub.store.tables import DriftMonitor, DriftStream, DriftTrouble, InputWatch, PairEvidence, SampleRow


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
        "id": "cam-1",
        "public_key": "K",
        "key_fingerprint": "f",
        "certificate": "C",
        "certificate_serial": "a1",
        "certificate_expires_at": 9.0,
        "mqtt_password": "",
        "channel": "stable",
        "labels": "{}",
        "pins": "{}",
        "info": "{}",
        "enrolled_at": 3.0,
        "online": False,
        "session": "",
        "command_counter": 0,
    }
    names = ", ".join(device)
    with engine.begin() as connection:
        values = ", ".join(f":{name}" for name in device)
        connection.execute(text(f"INSERT INTO device ({names}) VALUES ({values})"), device)
    upgrade(engine)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT serial, device_id, state, expires_at FROM certificate")).all()
    assert [tuple(row) for row in found] == [("a1", "cam-1", "current", 9.0)]
    engine.dispose()


def test_of_two_live_rollouts_the_one_in_the_channel_stays(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine, "0004")
    rollout = {
        "model": "digits",
        "channel": "stable",
        "release": 2,
        "from_release": 1,
        "state": "running",
        "attempt": 1,
        "salt": "s",
        "plan": "{}",
        "progress": '{"state":"running"}',
        "reason": "",
        "created_by": "x",
        "updated_at": 5.0,
    }
    names = ", ".join(["id", "created_at", *rollout])
    values = ", ".join(f":{name}" for name in ["id", "created_at", *rollout])
    document = b'{"models":{"digits":{"release":1,"rollout":{"id":"r-1"}},"faces":{"release":1}}}'
    with engine.begin() as connection:
        for number in (1, 2):
            row = {**rollout, "id": f"r-{number}", "created_at": float(number)}
            connection.execute(text(f"INSERT INTO rollout ({names}) VALUES ({values})"), row)
        connection.execute(
            text(
                "INSERT INTO channel (name, version, document, spread_s, notified_version, updated_at) "
                "VALUES ('stable', 1, :document, 0, 0, 1.0)"
            ),
            {"document": document},
        )
    upgrade(engine)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, state, ended_at, progress FROM rollout ORDER BY id")).all()
        events = connection.execute(text("SELECT rollout, event FROM rolloutevent")).all()
    assert [tuple(row)[:3] for row in rows] == [("r-1", "running", None), ("r-2", "aborted", 5.0)]
    assert '"state": "aborted"' in rows[1].progress
    assert [tuple(row) for row in events] == [("r-2", "aborted")]
    engine.dispose()


def test_labels_that_were_class_numbers_stay_what_they_are(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine, "0006")
    sample = {
        "model": "digits",
        "device_id": "d",
        "release": 1,
        "variant": "v",
        "reason": "random",
        "at": 1.0,
        "received_at": 1.0,
        "confidence": 0.5,
        "prediction": 3,
        "labelled_by": "",
        "path": "p",
    }
    columns = ["id", "label", *sample]
    insert = text(f"INSERT INTO sample ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})")
    with engine.begin() as connection:
        for key, label in (("a", 7), ("b", None), ("c", 2**31 - 1)):
            connection.execute(insert, {**sample, "id": key, "label": label})
    upgrade(engine)
    with Session(engine) as session:
        assert {row.id: row.label for row in session.exec(select(SampleRow))} == {"a": 7, "b": None, "c": 2**31 - 1}
        session.get_one(SampleRow, "b").label = [1.5, {"box": [0]}]
        session.commit()
    downgrade(engine, "0006")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, label FROM sample ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("a", 7), ("b", None), ("c", 2**31 - 1)]
    engine.dispose()


def test_models_whose_releases_disagree_are_written_down(database_url: str) -> None:
    engine = make_engine(database_url)
    upgrade(engine, "0007")
    x, sensors = ({"name": name, "datatype": "FP32", "shape": [-1, 8]} for name in ("x", "sensors"))
    both = [x, sensors]
    releases = [
        ("machines", 1, "published", [sensors]),
        ("machines", 2, "published", [x]),
        ("machines", 3, "reserved", None),
        ("pairs", 1, "published", both),
        ("pairs", 2, "published", both[::-1]),
        ("pairs", 3, "withdrawn", [x]),
        ("floored", 1, "published", [x]),
        ("floored", 2, "published", [sensors]),
    ]
    with engine.begin() as connection:
        for name, floor in (("machines", 1), ("pairs", 1), ("floored", 2)):
            connection.execute(
                text(
                    "INSERT INTO model (name, recipe, next_release, min_release, sketch_id, policy, created_at) "
                    "VALUES (:name, '', 4, :floor, '', '{}', 0.0)"
                ),
                {"name": name, "floor": floor},
            )
        for model, number, status, inputs in releases:
            manifest = b"" if inputs is None else json.dumps({"inputs": inputs, "outputs": [x]}).encode()
            connection.execute(
                text(
                    "INSERT INTO release (model, number, status, manifest, note, created_at, created_by) "
                    "VALUES (:model, :number, :status, :manifest, '', 0.0, '')"
                ),
                {"model": model, "number": number, "status": status, "manifest": manifest},
            )
    upgrade(engine)
    with engine.connect() as connection:
        said = connection.execute(text("SELECT action, subject, detail FROM auditentry")).all()
        chosen = connection.execute(text("SELECT DISTINCT interface_from FROM model")).scalars().all()
    assert [(row.action, row.subject, json.loads(row.detail)["releases"]) for row in said] == [
        ("model.disputed", "machines", [1, 2])
    ]
    assert chosen == [None], "who chooses is the operator"
    downgrade(engine, "0007")
    engine.dispose()


def test_pairs_that_a_live_rollout_has_counted_prove_nothing_any_more(database_url: str) -> None:
    """They may be repeats, and the same inputs will come again, now with their names."""
    engine = make_engine(database_url)
    upgrade(engine, "0011")
    with engine.begin() as connection:
        for key, ended in (("live", None), ("ended", 1.0)):
            connection.execute(
                text(
                    "INSERT INTO rollout (id, model, channel, release, from_release, state, attempt, salt, plan, "
                    "progress, reason, created_at, created_by, updated_at, ended_at) VALUES (:id, 'm', 'stable', 2, 1, "
                    "'running', 1, :id, '{}', '{}', '', 0.0, '', 0.0, :ended)"
                ),
                {"id": key, "ended": ended},
            )
            connection.execute(
                text(
                    'INSERT INTO pairevidence (rollout, attempt, device_id, "both", only_old, only_new, neither, '
                    "answered, local_failed, newly_refused) VALUES (:id, 1, 'd', 90, 4, 3, 2, 500, 0, 0)"
                ),
                {"id": key},
            )
    upgrade(engine)
    with Session(engine) as session:
        found = {
            row.rollout: (row.both, row.only_old, row.unnamed, row.answered, row.claimed)
            for row in session.exec(select(PairEvidence))
        }
    assert found == {"live": (0, 0, 99, 500, 0), "ended": (90, 4, 0, 500, 99)}
    downgrade(engine, "0011")
    engine.dispose()


def test_what_was_watched_for_drift_goes_on_under_its_own_release(database_url: str) -> None:
    """Devices kept the baselines of an older default under the newest one's monitor."""
    engine = make_engine(database_url)
    upgrade(engine, "0018")
    document = json.dumps({"epoch": 5, "since": 3.0, "slot_s": 60.0, "facts": {"at": 1.0}})
    stream = (
        "INSERT INTO driftstream (model, kind, name, release, state, windows, began_at, last_at, evidence, alarm_at, "
        "distance, alarm, updated_at, body) VALUES ('digits', 'device', :name, :release, 'steady', 9, 1.0, 2.0, 0.5, "
        "9.0, 0.1, 0, 2.0, :body)"
    )
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO driftmonitor (model, sketch_id, release, state, document, last_window, updated_at, basis) "
                "VALUES ('digits', 's', 5, 'watching', :document, 7, 2.0, :basis), "
                "('old', 's', 1, 'waiting', '{}', 0, 2.0, :basis)"
            ),
            {"document": document, "basis": b"b"},
        )
        for name, release in (("d-0", 5), ("d-1", 4)):
            connection.execute(text(stream), {"name": name, "release": release, "body": name.encode()})
        connection.execute(text("INSERT INTO input_monitor VALUES ('digits', 5, '{}', 7, 2.0)"))
        connection.execute(
            text("INSERT INTO input_watch VALUES ('digits', 'd-0', '{}', 2.0), ('gone', 'd', '{}', 2.0)")
        )
        connection.execute(text("INSERT INTO drift_trouble VALUES ('digits', 1.0, 2, 'away')"))
    upgrade(engine)
    assert differences(engine) == []
    with Session(engine) as session:
        for release in (4, 5):
            monitor = session.get_one(DriftMonitor, ("digits", release))
            assert (monitor.state, monitor.last_window, monitor.basis) == ("watching", 7, b"b")
            assert monitor.document == {"epoch": 0.0, "since": 3.0, "slot_s": 60.0}
        assert session.get_one(DriftStream, ("digits", 4, "device", "d-1")).body == b"d-1"
        assert session.get_one(InputWatch, ("digits", 5, "d-0")) and session.get_one(DriftTrouble, ("digits", 0))
        assert session.get_one(DriftMonitor, ("old", 1)).document == {} and scope.read(session, "old") is None
        known = scope.read(session, "digits")
        assert known is not None and [(one.release, one.since) for one in known.watched] == [(4, 0.0), (5, 0.0)]
        left = {**session.get_one(DriftStream, ("digits", 5, "device", "d-0")).model_dump(), "last_at": 1.0}
        session.add(DriftStream(**{**left, "release": 4}))  # d-0 had this one before
        session.commit()
    downgrade(engine, "0018")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT model, release, document FROM driftmonitor ORDER BY model")).all()
        streams = connection.execute(text("SELECT name, release FROM driftstream ORDER BY name")).all()
        assert connection.execute(text("SELECT model, device_id FROM input_watch")).all() == [("digits", "d-0")]
    assert [(row.model, row.release) for row in rows] == [("digits", 5), ("old", 1)]
    assert json.loads(rows[0].document)["epoch"] == 5 and list(streams) == [("d-0", 5), ("d-1", 4)]
    engine.dispose()
