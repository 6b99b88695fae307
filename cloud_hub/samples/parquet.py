"""Samples as Parquet, by DuckDB: any data tool reads the partitions.

Columns: id, model, device, release, variant, reason, recorded_at (Unix seconds), name, shape (list of int), input
(list of float: the first input; empty for text), confidence, prediction, cloud_prediction, arrays (MessagePack of every
input and output, for exact bytes), and in an export also label (a class number; null where a label is none),
labelled_by, and label_json (any label as its task keeps it, as JSON).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
from msgspec import Struct

from fleet.protocol.messages import Array, Sample
from fleet.protocol.tensors import from_array

_COLUMNS = (
    "id VARCHAR, model VARCHAR, device VARCHAR, release INTEGER, variant VARCHAR, reason VARCHAR, recorded_at DOUBLE, "
    "name VARCHAR, shape INTEGER[], input FLOAT[], confidence DOUBLE, prediction INTEGER, cloud_prediction INTEGER, "
    "arrays BLOB"
)
_INSERT = "INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

LARGEST_CLASS = (1 << 31) - 1  # of the 32 bits that the column `label` has


class Arrays(Struct, frozen=True, kw_only=True):
    """The column `arrays`."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def write(device: str, samples: Sequence[Sample]) -> bytes:
    """A Parquet file of the samples of one device."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        database.execute(f"CREATE TABLE sample ({_COLUMNS})")
        database.executemany(_INSERT, [_row(device, sample) for sample in samples])
        return _copy(database, "SELECT * FROM sample", Path(folder))


def arrays_of(parts: Iterable[bytes], ids: Collection[str] | None = None) -> dict[str, Arrays]:
    """The exact arrays of samples in some partitions, by id; the partitions are read by one query.

    Args:
        parts: one is in memory at a time.
        ids: the samples that are wanted; None for all.
    """
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        paths = _written(parts, Path(folder))
        if not paths:
            return {}
        query, given = "SELECT id, arrays FROM read_parquet(?, hive_partitioning=false)", [paths]
        if ids is not None:
            query, given = f"{query} WHERE list_contains(?, id)", [paths, list(ids)]
        found = database.execute(query, given).fetchall()
    return {str(key): msgspec.msgpack.decode(value, type=Arrays) for key, value in found}


def without(data: bytes, gone: Iterable[str]) -> bytes | None:
    """The partition without some samples; None when nothing is left."""
    with tempfile.TemporaryDirectory() as folder, _table(data) as database:
        database.execute("DELETE FROM sample WHERE list_contains(?, id)", [list(gone)])
        left = database.execute("SELECT count(*) FROM sample").fetchone()
        if not left or left[0] == 0:
            return None
        return _copy(database, "SELECT * FROM sample ORDER BY recorded_at", Path(folder))


def join(parts: Iterable[bytes], labels: Mapping[str, tuple[Any, str]]) -> bytes:
    """One Parquet file of all partitions; `labels` maps an id to its label, as its task keeps it, and who said so."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        database.execute(f"CREATE TABLE sample ({_COLUMNS})")
        if paths := _written(parts, Path(folder)):
            database.execute("INSERT INTO sample SELECT * FROM read_parquet(?, hive_partitioning=false)", [paths])
        database.execute("CREATE TABLE label (id VARCHAR, label INTEGER, labelled_by VARCHAR, label_json VARCHAR)")
        if labels:
            rows = [(key, _class(label), by, _json(label)) for key, (label, by) in labels.items()]
            database.executemany("INSERT INTO label VALUES (?, ?, ?, ?)", rows)
        columns = "sample.*, label.label, label.labelled_by, label.label_json"
        query = f"SELECT {columns} FROM sample LEFT JOIN label USING (id) ORDER BY recorded_at, id"  # noqa: S608
        return _copy(database, query, Path(folder))


def _class(label: object) -> int | None:
    return label if type(label) is int and 0 <= label <= LARGEST_CLASS else None


def _json(label: object) -> str:
    return msgspec.json.encode(label, order="deterministic").decode()


def _written(parts: Iterable[bytes], folder: Path) -> list[str]:
    """The partitions as files; their names are our own."""
    paths = []
    for number, part in enumerate(parts):
        path = folder / f"{number}.in.parquet"
        path.write_bytes(part)
        paths.append(str(path))
    return paths


class _table:  # reads as a statement
    """An in-memory table `sample` with a partition's rows."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._database = duckdb.connect()

    def __enter__(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "in.parquet"
            path.write_bytes(self._data)
            query = "CREATE TABLE sample AS SELECT * FROM read_parquet(?, hive_partitioning=false)"
            self._database.execute(query, [str(path)])
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _copy(database: Any, query: str, folder: Path) -> bytes:
    path = folder / "out.parquet"  # a name of our own making, so it may stand in the statement
    database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    return path.read_bytes()


def _row(device: str, sample: Sample) -> tuple[Any, ...]:
    first = sample.inputs[0]
    # Text has no numbers to show in this column; `arrays` holds it.
    flat = np.zeros(0) if first.datatype == "BYTES" else from_array(first).ravel()
    values = flat.astype(np.float32).tolist()
    exact = msgspec.msgpack.encode(Arrays(inputs=sample.inputs, outputs=sample.outputs))
    return (
        sample.id,
        sample.model,
        device,
        sample.release,
        sample.variant,
        sample.reason,
        sample.at,
        first.name,
        list(first.shape),
        values,
        sample.confidence,
        sample.prediction,
        sample.cloud_prediction,
        exact,
    )
