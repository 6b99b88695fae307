"""Rows of CSV, Parquet and .npz files: what is read alike, and what is refused with its place."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest

from cloud_hub.backtest.columns import ColumnNames, HistoricRow, InputColumns, RowReader, columns_of
from cloud_hub.backtest.files import heading_of, merged
from cloud_hub.backtest.times import Moments
from cloud_hub.errors import HubError
from fleet.protocol.manifest import Tensor, decode_manifest
from tests.cloud_hub.backtest.conftest import NAMES, write_csv, write_release
from tests.support.manifests import small_release

HEADING = ["time", "machine", *NAMES, "truth", "said"]
ROWS = [(100, "a", "20.5", "1", "ok", "worn"), (101.5, "b", "", "1.25", "1", "1"), (103, "a", "19", "nan", "", "ok")]


ARRAYS = {name: np.zeros(3) for name in HEADING}


def _saved(write: Callable[..., None], *arrays: object, **named: object) -> bytes:
    file = io.BytesIO()
    write(file, *arrays, **named)
    return file.getvalue()


def read(paths: list[Path], tmp_path: Path, finite: bool = True, **names: object) -> list[HistoricRow]:
    folder = tmp_path / f"release-{finite}"
    manifest = write_release(folder, finite=finite)
    columns = ColumnNames(**{"device": "machine", "label": "truth", "prediction": "said", **names})
    sources = []
    for path in paths:
        inputs = columns_of(manifest, {"x": NAMES}, heading_of(path), columns)
        sources.append((path, RowReader(manifest, inputs, columns, Moments(None))))
    return list(merged(sources))


def as_csv(tmp_path: Path, rows=ROWS, encoding: str = "utf-8", delimiter: str = ",") -> Path:
    path = write_csv(tmp_path / "history.csv", HEADING, rows)
    path.write_bytes(path.read_text().replace(",", delimiter).encode(encoding))
    return path


def as_parquet(tmp_path: Path) -> Path:
    path = tmp_path / "history.parquet"
    with duckdb.connect() as database:
        columns = "time DOUBLE, machine VARCHAR, temperature FLOAT, vibration DOUBLE, truth VARCHAR, said VARCHAR"
        database.execute(f"CREATE TABLE history ({columns})")
        database.executemany(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", [[cell or None for cell in row] for row in ROWS]
        )
        database.execute("UPDATE history SET vibration = 'nan'::DOUBLE WHERE time = 103")
        database.execute(f"COPY history TO '{path}' (FORMAT parquet)")
    return path


def as_npz(tmp_path: Path) -> Path:
    times, machines, *_, truth, said = zip(*ROWS, strict=True)
    x = np.array([[20.5, 1], [np.nan, 1.25], [19, np.nan]], np.float32)
    np.savez(tmp_path / "history.npz", time=times, machine=machines, x=x, truth=truth, said=said)
    return tmp_path / "history.npz"


@pytest.mark.parametrize(
    "write",
    [
        as_csv,
        as_parquet,
        as_npz,
        lambda folder: as_csv(folder, encoding="utf-8-sig"),
        lambda folder: as_csv(folder, encoding="utf-16", delimiter=";"),
        lambda folder: as_csv(folder, delimiter="\t"),
    ],
    ids=["csv", "parquet", "npz", "BOM", "UTF-16 and semicolons", "tabs"],
)
def test_every_kind_of_file_has_the_same_rows(write, tmp_path: Path) -> None:
    rows = read([write(tmp_path)], tmp_path)
    assert [(row.at, row.device, row.label, row.answer) for row in rows] == [
        (100.0, "a", 0, 1),
        (101.5, "b", 1, 1),
        (103.0, "a", None, 0),
    ]
    assert [row.refused for row in rows] == [None, ("x", 0), ("x", 1)]
    np.testing.assert_array_equal(rows[0].inputs["x"], np.array([20.5, 1], np.float32))


def test_an_input_that_may_hold_nan_takes_gaps(tmp_path: Path) -> None:
    rows = read([as_csv(tmp_path)], tmp_path, finite=False)
    assert [row.refused for row in rows] == [None, None, None] and np.isnan(rows[1].inputs["x"][0])


def test_files_of_several_devices_are_merged_by_time(tmp_path: Path) -> None:
    paths = [
        write_csv(tmp_path / f"{n}.csv", HEADING, [(at, n, 1, 1, "", "") for at in times])
        for n, times in (("a", (1, 5)), ("b", (2, 3)))
    ]
    assert [(row.at, row.device) for row in read(paths, tmp_path)] == [(1, "a"), (2, "b"), (3, "b"), (5, "a")]


def test_columns_are_found_by_the_features_names_or_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "h.csv", ["time", "machine", "celsius", "rms", "truth", "said"], [ROWS[0]])
    with pytest.raises(HubError, match="no column 'temperature' and 1 more") as caught:
        read([path], tmp_path)
    assert "--features x=" in caught.value.hint and "'celsius'" in caught.value.hint
    (tmp_path / "again").mkdir()
    (row,) = read([path], tmp_path / "again", features={"": ("celsius", "rms")})
    assert row.inputs["x"].tolist() == [20.5, 1.0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROWS[1], ROWS[0]], "line 3: its time lies before that of the row above"),
        ([("noon", *ROWS[0][1:])], "line 2: 'noon' is no moment"),
        ([(100, "", *ROWS[0][2:])], "line 2: the device's name is empty"),
        ([(100, "a", "warm", "1", "", "")], "line 2: column 'temperature': 'warm' is no number"),
        ([(100, "a", '"21,5"', "1", "", "")], "a point parts the decimals"),
        ([(100, "a", "1", "1", "broken", "ok")], "line 2: .*broken"),
        ([ROWS[0], ROWS[0][:4]], "line 3: it has 4 cells, the heading has 6"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(rows, words: str, tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in [HEADING, *rows]))
    with pytest.raises(HubError, match=words):
        read([path], tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("h.csv", b"", "it is empty, or has no heading"),
        ("h.csv", b"time,machine,time\n", "two columns are called 'time'"),
        ("h.csv", b"time,machine\n\xff\xfe\xfa", "not text in UTF-8"),
        ("h.parquet", b"time,machine\n", "no Parquet file"),
        ("h.npz", b"time,machine\n", "cannot be read as .npz"),
        ("h.npz", b"", "cannot be read as .npz"),
        ("h.npz", _saved(np.save, np.zeros(3)), "one array without a name"),
        ("h.npz", _saved(np.savez, **{**ARRAYS, "time": 100.0}), "'time' is no array of rows"),
        ("h.npz", _saved(np.savez, **ARRAYS)[:90] + b"?" * 20 + _saved(np.savez, **ARRAYS)[110:], "h.npz: "),
    ],
)
def test_a_file_that_is_none_of_these_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HubError, match=words):
        read([tmp_path / name], tmp_path)


def test_a_missing_file_or_column_is_said(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="no file") as caught:
        heading_of(tmp_path / "h.csv")
    assert caught.value.exit_code == 3
    with pytest.raises(HubError, match="--device: there is no column 'robot'"):
        read([as_csv(tmp_path)], tmp_path, device="robot")


def test_parquet_times_with_and_without_a_zone_are_read(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    moment = "1970-01-01 00:01:40"
    query = f"SELECT TIMESTAMP '{moment}' AS naive, TIMESTAMPTZ '{moment}+00' AS zoned, 'a' AS machine"
    with duckdb.connect() as database:
        database.execute(f"COPY ({query}, 1 AS temperature, 1 AS vibration) TO '{path}' (FORMAT parquet)")
    for number, column in enumerate(("naive", "zoned")):
        (tmp_path / str(number)).mkdir()
        (row,) = read([path], tmp_path / str(number), time=column, label="", prediction="")
        assert row.at == 100.0


EVEN, ODD = 2**53, 2**53 + 1


@pytest.mark.parametrize(
    ("datatype", "cells", "words"),
    [
        ("UINT8", (1, 300), "column 'b': UINT8 cannot hold 300"),
        ("UINT8", ("3.7", "1"), "column 'a': UINT8 cannot hold 3.7"),
        ("UINT8", (-1, 0), "column 'a': UINT8 cannot hold -1"),
        ("INT64", (0, str(2**63)), f"column 'b': INT64 cannot hold {2**63}"),
        ("INT64", (0, f"{ODD}.5"), "INT64 cannot hold"),
        ("BOOL", ("2", "0"), "column 'a': BOOL cannot hold 2"),
    ],
)
def test_a_number_that_the_datatype_cannot_hold_is_refused(datatype: str, cells: tuple, words: str) -> None:
    with pytest.raises(HubError, match=f"line 2: .*{words}"):
        row_of(datatype, cells)


@pytest.mark.parametrize("cells", [(ODD, EVEN), (str(ODD), f"{EVEN}.0"), (np.array([ODD, EVEN]),)], ids=str)
def test_whole_numbers_are_read_exactly(cells: tuple) -> None:
    assert row_of("INT64", cells).inputs["n"].tolist() == [ODD, EVEN]


def test_a_gap_in_whole_numbers_and_a_float_that_is_too_large_are_refused_as_devices_do() -> None:
    assert row_of("UINT8", (7, None)).refused == ("n", 1)
    assert row_of("FP16", ("70000", 1)).refused == ("n", 0)


def row_of(datatype: str, cells: tuple) -> HistoricRow:
    tensor = Tensor(name="n", datatype=datatype, shape=(-1, 2))
    manifest = decode_manifest(small_release(inputs=(tensor,))[0])
    reader = RowReader(
        manifest, [InputColumns(tensor, ("a", "b")[: len(cells)])], ColumnNames(device="d"), Moments(None)
    )
    return reader.row("line 2", [1.0, "m", *cells])
