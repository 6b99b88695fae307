"""The hour of `make soak` in a quarter of a minute: a swap, an outage and a new broker, and not one request fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import soak, soak_load

pytestmark = pytest.mark.e2e


def test_no_request_fails_whatever_happens_around_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "POINTS", 20)
    monkeypatch.setattr(soak, "LOCAL_RATE", 20.0)
    events = ("swap", "outage", "broker")
    found = soak.soak(tmp_path, seconds=2.0, every_s=0.2, away_s=0.2, events=events, rate=50.0)
    http, local = found["http"], found["in_process"]
    assert (found["failed"], http["failures"], local["failures"]) == (0, [], [])
    assert found["passed"] and found["events"] == {"swap": 1, "outage": 1, "broker": 1}
    assert set(http["releases"]) == set(local["releases"]) == {"1", "2"}
    assert http["requests"] <= found["counted_at_the_hub"] <= http["requests"] + local["requests"]
    assert len(found["agent"]["pss_bytes"]) > 1 and not found["memory_judged"]


def test_a_failure_is_counted_and_written_down() -> None:
    tally = soak_load.Tally()
    for number in range(1000):
        tally.append((float(number), 0.001 if number else 2.0, number != 7, "1" if number != 7 else "503 busy"))
    said = tally.document()
    assert (said["requests"], said["failed"], said["failures"], said["releases"]) == (1000, 1, ["503 busy"], {"1": 999})
    assert 1.0 <= said["p50_ms"] <= said["p99_ms"] <= 1.06 and said["slowest_ms"] == 2000.0


@pytest.mark.parametrize(("late", "grew"), [(40, False), (41, False), (44, True)])
def test_memory_that_grows_is_found(late: int, grew: bool) -> None:
    process = soak.Process(1)
    process.memory = [mib << 20 for mib in (30, 30, *[40] * 16, late, late)]
    process.files = [20, 30, 20]
    assert process.document()["grew"] is grew
