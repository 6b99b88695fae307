"""Files of the past, read row by row whatever their size: CSV as spreadsheets write it, Parquet, and `.npz`.

Rows of one file must be in the order of their times. Several files, such as one of each device, are merged by time.
"""

from __future__ import annotations

import codecs
import csv
import heapq
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from cloud_hub.backtest.columns import HistoricRow, RowReader
from cloud_hub.errors import InvalidError, NotFoundError

Cells = tuple[str, Sequence[object]]  # where they are, in words, and what they hold
CHUNK = 10_000  # rows of a Parquet file that are read at once
DELIMITERS = ",;\t|"
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def heading_of(path: Path) -> list[str]:
    """The names of a file's columns; of an `.npz` those of its arrays.

    Raises:
        NotFoundError: there is no such file. InvalidError: it is none of these, or cannot be read.
    """
    if not path.is_file():
        raise NotFoundError(f"no file {path}", subject=str(path))
    return _HEADINGS.get(path.suffix.lower(), _csv_heading)(path)


def merged(sources: Sequence[tuple[Path, RowReader]]) -> Iterator[HistoricRow]:
    """The rows of all files, in the order of their times.

    Raises:
        InvalidError: a cell that cannot be read, or a time that lies before the one above it.
    """
    return heapq.merge(*(_in_order(path, reader) for path, reader in sources), key=lambda row: row.at)


def _in_order(path: Path, reader: RowReader) -> Iterator[HistoricRow]:
    cells = _CELLS.get(path.suffix.lower(), _csv_cells)
    last = 0.0
    for where, some in cells(path, reader.columns):
        row = reader.row(where, some)
        if row.at < last:
            hint = "sort the file by its times; one file of each device, in any order of devices, is merged by itself"
            raise InvalidError(f"{where}: its time lies before that of the row above", subject=where, hint=hint)
        last = row.at
        yield row


def _csv_lines(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The heading of a CSV file, and its other lines with their numbers."""
    with path.open("rb") as file:
        start = file.read(4)
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")

    def lines() -> Iterator[tuple[int, list[str]]]:
        with path.open(encoding=encoding, newline="") as text:
            first = text.readline()
            text.seek(0)
            reader = csv.reader(text, delimiter=max(DELIMITERS, key=first.count))
            yield from ((reader.line_num, line) for line in reader if line)

    found = _said(path, lines())
    heading = [name.strip() for name in next(found, (0, []))[1]]
    if not any(heading):
        raise InvalidError(f"{path}: it is empty, or has no heading", subject=str(path))
    if twice := [name for name in heading if name and heading.count(name) > 1]:
        raise InvalidError(f"{path}: two columns are called {twice[0]!r}", subject=str(path))
    return heading, found


def _said(path: Path, lines: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        hint = "save it as CSV in UTF-8"
        raise InvalidError(f"{path}: it is not text in UTF-8 or UTF-16", subject=str(path), hint=hint) from error
    except csv.Error as error:
        raise InvalidError(f"{path}: it is no CSV: {error}", subject=str(path)) from error


def _csv_heading(path: Path) -> list[str]:
    return _csv_lines(path)[0]


def _csv_cells(path: Path, columns: Sequence[str]) -> Iterator[Cells]:
    heading, lines = _csv_lines(path)
    places = [heading.index(name) for name in columns]
    for number, line in lines:
        if len(line) != len(heading):
            words = f"{path}, line {number}: it has {len(line)} cells, the heading has {len(heading)}"
            raise InvalidError(words, subject=str(path), hint="quote cells that hold the delimiter")
        yield f"{path}, line {number}", [line[place] for place in places]


def _parquet(path: Path, query: str) -> Any:
    import duckdb

    database = duckdb.connect()
    try:
        return database, database.execute(query, [str(path)])
    except duckdb.Error as error:
        database.close()
        raise InvalidError(f"{path}: it is no Parquet file: {str(error).splitlines()[0]}", subject=str(path)) from error


def _parquet_types(path: Path) -> dict[str, str]:
    database, found = _parquet(path, "DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning=false)")
    with closing(database):
        return {str(name): str(kind) for name, kind, *_ in found.fetchall()}


def _parquet_heading(path: Path) -> list[str]:
    return list(_parquet_types(path))


def _parquet_cells(path: Path, columns: Sequence[str]) -> Iterator[Cells]:
    types = _parquet_types(path)
    query = f"SELECT {', '.join(_column(name, types[name]) for name in columns)} "
    database, found = _parquet(path, query + "FROM read_parquet(?, hive_partitioning=false)")
    with closing(database):
        number = 0
        while rows := found.fetchmany(CHUNK):
            for row in rows:
                number += 1
                yield (
                    f"{path}, row {number}",
                    [np.array(cell) if isinstance(cell, (list, tuple)) else cell for cell in row],
                )


def _column(name: str, kind: str) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"epoch({quoted})"
    if kind.startswith("DECIMAL"):
        return f"CAST({quoted} AS DOUBLE)"
    return f"CAST({quoted} AS VARCHAR)" if kind.startswith(("TIMESTAMP", "DATE")) else quoted


def _arrays(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidError(f"{path}: it cannot be read as .npz: {error}", subject=str(path)) from error
    if isinstance(found, np.ndarray):
        hint = "numpy.savez gives each array the name of its column"
        raise InvalidError(f"{path}: it holds one array without a name (.npy)", subject=str(path), hint=hint)
    return found


def _npz_heading(path: Path) -> list[str]:
    with _arrays(path) as file:
        return list(file.files)


def _npz_cells(path: Path, columns: Sequence[str]) -> Iterator[Cells]:
    """The rows of arrays; those that are named alone are held in memory."""
    try:
        with _arrays(path) as file:
            arrays = [_plain(name, file[name]) for name in columns]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidError(f"{path}: {error}", subject=str(path), hint="save numbers and texts, no objects") from error
    if len({len(array) for array in arrays}) > 1:
        sizes = ", ".join(f"{name} {len(array)}" for name, array in zip(columns, arrays, strict=True))
        raise InvalidError(f"{path}: its arrays differ in their number of rows: {sizes}", subject=str(path))
    for number, cells in enumerate(zip(*arrays, strict=True)):
        yield f"{path}, row {number}", [cell.item() if isinstance(cell, np.generic) else cell for cell in cells]


def _plain(name: str, array: Any) -> Any:
    """An array of rows; moments of numpy's own as Unix seconds."""
    if not isinstance(array, np.ndarray) or not array.ndim:
        raise ValueError(f"{name!r} is no array of rows")
    if array.dtype.kind == "M":
        return array.astype("datetime64[us]").astype(np.int64) / 1e6
    return array


_HEADINGS: dict[str, Callable[[Path], list[str]]] = {".parquet": _parquet_heading, ".npz": _npz_heading}
_CELLS: dict[str, Callable[[Path, Sequence[str]], Iterator[Cells]]] = {".parquet": _parquet_cells, ".npz": _npz_cells}
