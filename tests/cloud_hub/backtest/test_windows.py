"""Windows of the past are those that a device would have sent of the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec import to_builtins

from cloud_hub.backtest.columns import HistoricRow
from cloud_hub.backtest.windows import WindowMaker
from edge_agent.telemetry.windows import Builder, Key
from fleet.protocol.drift_encoder import decode_encoder
from tests.cloud_hub.backtest.conftest import SPREAD, USUAL, write_release


def rows_of(count: int, *, every: float = 1.0, device: str = "a", at: float = 0.0) -> list[HistoricRow]:
    random = np.random.default_rng(1)
    return [
        HistoricRow(
            at=at + every * number,
            device=device,
            labels=(),
            inputs={"x": random.normal(USUAL, SPREAD).astype(np.float32)},
            refused=("x", 1) if number % 10 == 9 else None,
            label=0,
            answer=number % 2,
        )
        for number in range(count)
    ]


def maker(tmp_path: Path, **settings: object) -> WindowMaker:
    manifest = write_release(tmp_path / "release")
    assert manifest.sketch is not None
    encoder = decode_encoder((tmp_path / "release/blobs" / manifest.sketch.encoder.sha256).read_bytes())
    return WindowMaker(manifest, encoder, **{"window_s": 60.0, "most": 1000, **settings})


def test_a_window_is_what_the_device_would_have_sent(tmp_path: Path) -> None:
    """Of up to 256 rows, which all are drawn: of more the draw is random."""
    making, rows = maker(tmp_path, window_s=600.0), rows_of(200)
    for row in rows:
        assert making.add(row) == []
    (window,) = making.rest()
    manifest = write_release(tmp_path / "again")
    builder = Builder(Key("m", 1, "v", None), 0.0, 2, making._encoder)
    builder.watch(manifest.inputs, making._encoder)
    for row in rows:
        builder.request(0.0, ["edge"] if row.refused is None else ["failed", "refused"])
        if row.refused is not None:
            builder.refusal("value", *row.refused)
            continue
        builder.draw({"x": row.inputs["x"][None]}, lambda: 0.0)
        builder.scores([], [row.answer])
    sent = builder.close(600.0)
    assert window.sketch == sent.sketch and window.body["outlying"] == sent.outlying
    assert window.body["inputs"] == to_builtins(list(sent.inputs))
    assert tuple(window.body["classes"]) == sent.classes
    counters = {name: count for name, count in sent.counters.items() if name != "latency_us_sum"}
    assert window.body["counters"] == counters


def test_a_window_ends_with_its_time_or_with_its_rows(tmp_path: Path) -> None:
    making = maker(tmp_path, most=100)
    closed = [one for row in rows_of(61) for one in making.add(row)]
    assert [(one.started_at, one.ended_at, one.rows) for one in closed] == [(0.0, 60.0, 60)]
    full = maker(tmp_path / "full", most=50)
    closed = [one for row in rows_of(50, every=0.1) for one in full.add(row)]
    assert [(one.started_at, one.rows) for one in closed] == [(0.0, 50)] and closed[0].ended_at < 5
    assert full.rest() == []


def test_devices_have_windows_of_their_own_and_a_silent_one_is_over_in_time(tmp_path: Path) -> None:
    making = maker(tmp_path)
    for row in [*rows_of(5, device="a"), *rows_of(5, device="b", at=30.0)]:
        assert making.add(row) == []
    assert making.due(59.0) == []
    assert [(one.device, one.ended_at) for one in making.due(60.0)] == [("a", 60.0)]
    assert [(one.device, one.ended_at) for one in making.rest()] == [("b", 90.0)]


def test_memory_holds_a_part_of_a_window_however_many_rows_it_has(tmp_path: Path) -> None:
    making = maker(tmp_path, most=1_000_000, window_s=86_400.0)
    for row in rows_of(1500):
        making.add(row)
    (window,) = making.rest()
    assert window.rows == 1500 and window.sketch is not None and window.sketch.count == 256
