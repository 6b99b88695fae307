"""The speed at which the hub takes devices' messages, against the database's own limit for the same rows.

`python benchmarks/ingest.py` takes batches of `BATCH` messages of every kind through the real ingestor, with everything
that belongs to it: reading and checking, cursors, one durable transaction, signed receipts. After each batch the very
rows that it left in the kind's table are written once more, under another spool, by the fastest way that the driver
has: `executemany` of a prepared statement on SQLite, `COPY` or a pipelined `executemany` on PostgreSQL, whichever is
faster, also with one durable commit. Both go in turns, so that a busy machine slows both; `of_limit` is the ratio.

*backlog*: 25 devices send 20 records each, as many as an agent has in flight. *steady*: each message is of another
device, which is the dearest for the hub: a cursor, a device and a signed receipt for every record.
`statements` are those that reach the database per message, as `tests/support/statements.py` counts them. The result
goes to `benchmarks/results/ingest.json` with the machine's description.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import machine
from cloud_hub.ingest.ingestor import Ingestor
from tests.support.databases import migrated_postgres
from tests.support.hub import HubFixture, make_hub
from tests.support.postgres import cluster
from tests.support.statements import counted
from tests.support.traffic import KINDS, Traffic, prepare

BATCH = 500
DEVICES = {"backlog": 25, "steady": BATCH}
TABLES = {
    "model": "deviceevent",
    "agent": "deviceevent",
    "result": "deviceevent",
    "benchmark": "deviceevent",
    "window": "window",
    "paired": "window",
}


class Rows(NamedTuple):
    """Rows of a table as the driver takes them, without their numbers."""

    table: str
    columns: list[str]
    values: list[tuple[Any, ...]]


def newest(hub: HubFixture, table: str, count: int) -> Rows:
    """The last rows that came, of a spool of another name."""
    with hub.hub.engine.connect() as connection:
        found = connection.exec_driver_sql(f'SELECT * FROM "{table}" ORDER BY id DESC LIMIT {count}')
        columns = list(found.keys())
        place = columns.index("spool")
        rows = [tuple("limit" if at == place else value for at, value in enumerate(row)) for row in found]
    number = columns.index("id")
    return Rows(table, [name for name in columns if name != "id"], [row[:number] + row[number + 1 :] for row in rows])


def limits(hub: HubFixture, rows: Rows) -> dict[str, float]:
    """Seconds that the database itself needs for the rows, by way of writing them; nothing of them stays."""
    names = ", ".join(f'"{name}"' for name in rows.columns)
    postgres = hub.hub.engine.dialect.name == "postgresql"
    insert = (
        f'INSERT INTO "{rows.table}" ({names}) VALUES ({", ".join(["%s" if postgres else "?"] * len(rows.columns))})'
    )
    ways: dict[str, Callable[[Any], None]] = {"executemany": lambda cursor: cursor.executemany(insert, rows.values)}
    if postgres:
        ways["copy"] = lambda cursor: _copy(cursor, f'COPY "{rows.table}" ({names}) FROM STDIN', rows.values)
    return {name: _timed(hub, rows.table, way) for name, way in ways.items()}


def _copy(cursor: Any, statement: str, values: list[tuple[Any, ...]]) -> None:
    with cursor.copy(statement) as copy:
        for row in values:
            copy.write_row(row)


def _timed(hub: HubFixture, table: str, way: Callable[[Any], None]) -> float:
    connection = hub.hub.engine.raw_connection()
    try:
        cursor = connection.cursor()
        begun = time.perf_counter()
        if hub.hub.engine.dialect.name == "sqlite":
            cursor.execute("BEGIN IMMEDIATE")
        way(cursor)
        cursor.execute("COMMIT")
        took = time.perf_counter() - begun
        cursor.execute(f"""DELETE FROM "{table}" WHERE spool = 'limit'""")
        cursor.execute("COMMIT") if hub.hub.engine.dialect.name == "postgresql" else None
        cursor.close()
    finally:
        connection.close()
    return took


def measure(hub: HubFixture, kind: str, devices: Sequence[str], batches: int) -> dict[str, Any]:
    """Take batches of one kind in turns with the database's own way."""
    ingestor, traffic, table = Ingestor(hub.hub), Traffic(kind, devices, spool=kind), TABLES.get(kind)
    ingestor.take(traffic.batch(BATCH))
    took, limit, statements = [], [], 0
    for _ in range(batches):
        batch = traffic.batch(BATCH)
        gc.collect()
        with counted(hub.hub.engine) as count:
            begun = time.perf_counter()
            receipts = ingestor.take(batch)
            took.append(time.perf_counter() - begun)
        statements += count.statements
        assert kind == "status" or len(receipts) == len(devices)
        if table:
            limit.append(limits(hub, newest(hub, table, BATCH)))
    found: dict[str, Any] = {
        "records_per_s": round(BATCH / median(took)),
        "statements": round(statements / batches / BATCH, 3),
    }
    if table:
        ways = {name: median(one[name] for one in limit) for name in limit[0]}
        best = min(ways, key=ways.__getitem__)
        ratio = median(one[best] / mine for one, mine in zip(limit, took, strict=True))
        found |= {"limit_per_s": round(BATCH / ways[best]), "limit_by": best, "of_limit": round(ratio, 3)}
    return found


@contextmanager
def hubs(database: str) -> Iterator[Callable[[], HubFixture]]:
    """Makes hubs on fresh databases."""
    with tempfile.TemporaryDirectory() as folder:
        made: list[HubFixture] = []

        def sqlite() -> HubFixture:
            made.append(make_hub(Path(folder) / str(len(made))))
            return made[-1]

        if database == "sqlite":
            yield sqlite
        else:
            with cluster() as connection:

                def postgres() -> HubFixture:
                    url = migrated_postgres(connection, f"hub{len(made)}")
                    made.append(make_hub(Path(folder) / str(len(made)), database=url))
                    return made[-1]

                yield postgres
                for hub in made:
                    hub.hub.engine.dispose()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10, help=f"of {BATCH} messages, of each kind")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--databases", nargs="*", choices=("sqlite", "postgresql"), default=("sqlite", "postgresql"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ingest.json")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # messages that are set aside are said
    described = machine("sqlalchemy", "psycopg", "msgspec", "cryptography")
    document: dict[str, Any] = {"machine": described, "batch": BATCH, "batches": options.batches}
    for database in options.databases:
        with hubs(database) as make:
            for shape, count in DEVICES.items():
                hub = make()
                names = prepare(hub, count)
                for kind in options.kinds:
                    found = measure(hub, kind, names, options.batches)
                    document.setdefault(database, {}).setdefault(shape, {})[kind] = found
                    print(f"{database:10} {shape:8} {kind:10}", json.dumps(found), flush=True)
                hub.hub.engine.dispose()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
