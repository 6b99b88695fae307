"""Watch every release that is in use for drift

Tables of drift get the release into their keys. Device by device, baselines were of the release that the device served,
but kept under the model's newest default: each such release gets a monitor of its own, which goes on from there.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0029"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEYS = {  # of each table, before and now
    "driftmonitor": (("model",), ("model", "release")),
    "driftstream": (("model", "kind", "name"), ("model", "release", "kind", "name")),
    "meaning": (("model",), ("model", "release")),
    "input_monitor": (("model",), ("model", "release")),
    "input_watch": (("model", "device_id"), ("model", "release", "device_id")),
    "drift_trouble": (("model",), ("model", "release")),
}
INDEX = "ix_driftstream_model_evidence"
NEW_INDEX = "ix_driftstream_model_release_evidence"


def upgrade() -> None:
    """Apply."""
    op.drop_index(INDEX, table_name="driftstream")
    for name, (_, key) in KEYS.items():
        added = {
            "input_watch": "(SELECT m.release FROM input_monitor m WHERE m.model = t.model)",
            "drift_trouble": "0",
        }.get(name)
        # A row of a device without its model's monitor is a leftover.
        kept = " WHERE EXISTS (SELECT 1 FROM input_monitor m WHERE m.model = t.model)" if name == "input_watch" else ""
        _rekey(name, key, added, kept)
    op.create_index(NEW_INDEX, "driftstream", ["model", "release", "evidence"])
    op.create_table(
        "drift_scope",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model"),
    )
    _go_on()


def downgrade() -> None:
    """Undo: of each model the newest release stays watched, and the streams of others are kept under it."""
    connection = op.get_bind()
    op.drop_table("drift_scope")
    op.drop_index(NEW_INDEX, table_name="driftstream")
    for name in ("driftmonitor", "meaning", "input_monitor", "drift_trouble", "input_watch"):
        newest = f"(SELECT max(o.release) FROM {name} o WHERE o.model = {name}.model)"  # noqa: S608
        connection.exec_driver_sql(f"DELETE FROM {name} WHERE release < {newest}")  # noqa: S608
    # A device, or a group, was in one release at a time: the one that was heard of last.
    connection.exec_driver_sql(
        "DELETE FROM driftstream WHERE (model, release, kind, name) IN (SELECT model, release, kind, name FROM "
        "(SELECT model, release, kind, name, row_number() OVER (PARTITION BY model, kind, name "
        "ORDER BY last_at DESC, release DESC) AS place FROM driftstream) AS placed WHERE place > 1)"
    )
    for row in connection.exec_driver_sql("SELECT model, release, document FROM driftmonitor").all():
        document = json.loads(row.document)
        if "epoch" in document:
            _write(row.model, row.release, {**document, "epoch": row.release})
    for name, (key, _) in KEYS.items():
        _rekey(name, key, None, "", drop=("release",) if name in ("input_watch", "drift_trouble") else ())
    op.create_index(INDEX, "driftstream", ["model", "evidence"])


def _rekey(name: str, key: tuple[str, ...], release: str | None, kept: str, drop: tuple[str, ...] = ()) -> None:
    """Make a table again under another key, with all its rows; `release` is what a new column holds."""
    connection = op.get_bind()
    columns = [column for column in sa.inspect(connection).get_columns(name) if column["name"] not in drop]
    made = [
        sa.Column(
            one["name"],
            WHOLE if isinstance(one["type"], sa.Integer) else one["type"],
            nullable=one["nullable"],
            server_default=sa.text(one["default"]) if one["default"] is not None else None,
        )
        for one in columns
    ]
    if release is not None:
        made.append(sa.Column("release", WHOLE, nullable=False))
    op.create_table(f"{name}_made", *made, sa.PrimaryKeyConstraint(*key))
    names = ", ".join(column["name"] for column in columns)
    values = ", ".join(f"t.{column['name']}" for column in columns)
    into, of = (f"{names}, release", f"{values}, {release}") if release is not None else (names, values)
    connection.exec_driver_sql(f"INSERT INTO {name}_made ({into}) SELECT {of} FROM {name} t{kept}")  # noqa: S608
    op.drop_table(name)
    op.rename_table(f"{name}_made", name)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"ALTER INDEX {name}_made_pkey RENAME TO {name}_pkey")


def _go_on() -> None:
    """A monitor for each release of which there are streams, and what is watched of each model: nothing begins anew."""
    connection = op.get_bind()
    monitors = connection.exec_driver_sql("SELECT model, release, document FROM driftmonitor ORDER BY model").all()
    for model, newest, text in monitors:
        document = json.loads(text)
        if "epoch" not in document:  # of a version that watched otherwise: it begins with its first windows
            continue
        document = {name: value for name, value in document.items() if name != "facts"} | {"epoch": 0.0}
        _write(model, newest, document)
        found = sa.text("SELECT DISTINCT release FROM driftstream WHERE model = :model AND release <> :newest")
        others = [row.release for row in connection.execute(found, {"model": model, "newest": newest})]
        copied = sa.text(
            "INSERT INTO driftmonitor (model, release, sketch_id, state, document, last_window, updated_at, basis) "
            "SELECT model, :release, sketch_id, state, document, last_window, updated_at, basis FROM driftmonitor "
            "WHERE model = :model AND release = :newest"
        )
        for release in others:
            connection.execute(copied, {"model": model, "release": release, "newest": newest})
        watched = [{"release": release, "default": True, "since": 0.0} for release in sorted({newest, *others})]
        scope = {"at": 0.0, "watched": watched}
        row = {"model": model, "document": json.dumps(scope, sort_keys=True)}
        connection.execute(sa.text("INSERT INTO drift_scope VALUES (:model, :document, 0.0)"), row)


def _write(model: str, release: int, document: dict[str, object]) -> None:
    """Put a monitor's document in the place of the one before."""
    statement = sa.text("UPDATE driftmonitor SET document = :text WHERE model = :model AND release = :release")
    row = {"text": json.dumps(document, sort_keys=True), "model": model, "release": release}
    op.get_bind().execute(statement, row)
