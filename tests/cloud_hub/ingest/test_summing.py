"""Windows into one row of an hour: nothing is counted twice, and nothing is lost that sums can keep."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.ingest.reading import ReadRecord, read_record
from cloud_hub.ingest.summing import Part, beginning, summed
from fleet.protocol.durations import HOUR_S
from fleet.protocol.figures import COLUMNS, FINITE, HIGH, LOW, MEAN, SPREAD, Told, figures_of, summarize_input
from fleet.protocol.quantiles import quantiles
from fleet.protocol.quantiles import summarize_numbers as quantile_summary
from fleet.protocol.telemetry import InputSummary, QuantileData, SketchData, Window
from tests.support.traffic import Traffic

TOLD = Told("x", "values", ("a", "b"))


def part_of(record: ReadRecord) -> Part:
    window = record.body
    assert isinstance(window, Window)
    return Part(window.started_at, window.ended_at, 1, record.document, window.sketch)


def parts(count: int) -> list[Part]:
    return [part_of(read_record(message.payload)) for message in Traffic("paired", ["cam-1"]).batch(count)]


def part(body: dict, sketch: SketchData | None = None) -> Part:
    return Part(0.0, 60.0, 1, body, sketch)


def test_counts_and_sketches_are_added_and_pairs_are_not_kept():
    some = parts(7)
    found = summed(some)
    assert (found.windows, found.started_at, found.ended_at) == (7, some[0].started_at, some[-1].ended_at)
    assert found.body["counters"]["requests"] == 4200 and "pairs" not in found.body
    for name in ("latency_us", "confidence", "classes"):
        assert found.body[name] == np.sum([one.body[name] for one in some], axis=0).tolist()
    assert found.sketch.count == 7 * 256
    sums = [np.frombuffer(one.sketch.sums, "<f4") for one in [found, *some]]
    assert np.allclose(sums[0], np.sum(sums[1:], axis=0), rtol=1e-4, atol=1e-4)
    assert (found.body["outlying"], found.body["looked_at"]) == (21, 7 * 256)
    assert found.body["variant"] == "litert-int8"


@given(st.integers(1, 8), st.integers(1, 8))
def test_sums_of_sums_say_what_one_sum_says(first: int, second: int):
    some = parts(first + second)
    whole, halves = summed(some), summed([summed(some[:first]), summed(some[first:])])
    assert halves._replace(body=None, sketch=None) == whole._replace(body=None, sketch=None)
    same = set(whole.body) - {"inputs"}
    assert {name: halves.body[name] for name in same} == {name: whole.body[name] for name in same}
    assert np.allclose(table(halves), table(whole), rtol=1e-4)


def table(one: Part) -> np.ndarray:
    return figures_of(msgspec.convert(one.body["inputs"][0], InputSummary))


def told(rows: list[np.ndarray]) -> dict:
    return {"inputs": [msgspec.to_builtins(summarize_input(TOLD, rows, every=True))]}


def test_inputs_say_of_an_hour_what_they_would_of_all_its_rows():
    random = np.random.default_rng(3)
    windows = [[np.float32(random.normal(n, 1 + n, 2)) for _ in range(20 + 9 * n)] for n in range(5)]
    windows[1][0][0] = np.nan
    found, whole = (
        table(summed([part(told(rows)) for rows in windows])),
        table(part(told([row for rows in windows for row in rows]))),
    )
    for column in (FINITE, MEAN, SPREAD, LOW, HIGH):
        assert np.allclose(found[:, column], whole[:, column], rtol=1e-3, atol=1e-4), COLUMNS[column]
    assert (np.diff(found[:, LOW:]) >= -1e-6).all()


def test_an_input_that_never_had_a_finite_value_stays_without_figures():
    found = table(summed([part(told([np.full(2, np.nan, np.float32)] * 3)) for _ in range(2)]))
    assert (found[:, FINITE] == 0).all() and np.isnan(found[:, MEAN]).all()


def test_answers_that_are_numbers_keep_their_quantiles():
    random = np.random.default_rng(0)
    values = random.normal(size=(6, 500))
    bodies = [{"values": [msgspec.to_builtins(quantile_summary(row))]} for row in values]
    merged = msgspec.convert(summed([part(body) for body in bodies]).body["values"][0], QuantileData)
    assert np.allclose(quantiles(merged, [0.1, 0.5, 0.9]), np.quantile(values, [0.1, 0.5, 0.9]), atol=0.1)


def test_what_does_not_fit_is_left_out_and_said_to_differ():
    sketches = [
        SketchData(sketch_id=name, count=4, sums=b"\0" * size) for name, size in (("a", 8), ("b", 8), ("a", 16))
    ]
    found = summed([part({"variant": str(n)}, sketch) for n, sketch in enumerate(sketches)])
    assert found.sketch.count == 4 and found.body["variant"] is None and found.body["outlying"] == -1
    assert summed([part({}), part({})]).sketch is None


def test_counters_of_an_enemy_are_bounded():
    bodies = [{"counters": {f"c{n}-{m}": (1 << 63) - 1 for m in range(50)}} for n in range(3)]
    found = summed([part(body) for body in [*bodies, *bodies]]).body["counters"]
    assert len(found) == 64 and set(found.values()) == {(1 << 63) - 1}


@pytest.mark.parametrize(
    ("ended_at", "begins"), [(7250.0, 7200), (1e9, 90_000), (0.0, 0)], ids=["its hour", "a clock ahead", "1970"]
)
def test_a_window_counts_in_its_own_hour_and_not_after_it_came(ended_at: float, begins: int):
    assert beginning(ended_at, 90_000.5, HOUR_S) == begins
