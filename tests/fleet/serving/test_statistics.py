"""The counts of a release."""

from __future__ import annotations

from fleet.serving.statistics import SIZES, Statistics


def test_requests_rows_runs_and_times() -> None:
    counted = Statistics(now=lambda: 1_800_000_000.25)
    counted.ran(3, 0.002, requests=2)
    counted.queued(0.001)
    counted.succeeded(1, 0.004)
    counted.succeeded(2, 0.006)
    counted.failed(0.5)
    found = counted.document("m", "7")
    assert (found["name"], found["version"], found["last_inference"]) == ("m", "7", 1_800_000_000_250)
    assert (found["inference_count"], found["execution_count"]) == (3, 1)
    stats = found["inference_stats"]
    assert stats["success"] == {"count": 2, "ns": 10_000_000}
    assert stats["fail"] == {"count": 1, "ns": 500_000_000}
    assert stats["queue"] == {"count": 2, "ns": 1_000_000}
    assert stats["compute_infer"] == {"count": 2, "ns": 4_000_000}  # each of both requests took the run's time
    (batch,) = found["batch_stats"]
    assert (batch["batch_size"], batch["compute_infer"]) == (3, {"count": 1, "ns": 2_000_000})


def test_batch_sizes_that_are_told_apart_are_bounded() -> None:
    counted = Statistics()
    for rows in range(1, SIZES + 50):
        counted.ran(rows, 0.001)
    found = counted.document("m", "1")
    assert len(found["batch_stats"]) == SIZES and found["execution_count"] == SIZES + 49
