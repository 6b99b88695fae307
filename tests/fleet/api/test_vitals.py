"""A machine's numbers in words, and what of them is ill."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.api.vitals import STALE_S, DeviceVitals, VitalsHour, hour_in_words, ill_of, vitals_in_words

GIB = 1 << 30
WELL: dict[str, Any] = {
    "at": 1000.0,
    "cpu": 0.125,
    "memory": 4 * GIB,
    "memory_free": GIB,
    "disk": 32 * GIB,
    "disk_free": 8 * GIB,
    "celsius": 51.4,
}


def ill(now: float = 1000.0, **changes: Any) -> list[str]:
    return [one.what for one in ill_of(DeviceVitals(**{**WELL, **changes}), now)]


def test_what_is_told_is_said_and_nothing_else() -> None:
    assert vitals_in_words(DeviceVitals(**WELL)) == {
        "cpu": "12 % busy",
        "memory": "1 GiB of 4 GiB free",
        "disk": "8 GiB of 32 GiB free",
        "temperature": "51 °C",
    }
    assert vitals_in_words(DeviceVitals(at=1.0, disk_free=900)) == {"disk": "900 B free"}
    assert vitals_in_words(None) == {}


def test_an_hour_is_said_by_its_worst() -> None:
    told = {**WELL, "cpu_most": 0.9, "begins": 3600, "heartbeats": 60}
    assert hour_in_words(VitalsHour(**told))["cpu"] == "12 % busy, 90 % at most"
    assert hour_in_words(VitalsHour(begins=3600, heartbeats=1, celsius=-4.0)) == {"temperature": "-4 °C"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"memory_free": GIB // 10}, ["its memory is nearly full: 102 MiB of 4 GiB free"]),
        ({"disk_free": GIB}, ["its disk is nearly full: 1 GiB of 32 GiB free"]),
        ({"celsius": 88.0}, ["it is hot: 88 °C"]),
        ({"memory": None, "memory_free": 1}, []),  # of how much, nobody knows
        ({"disk": 0, "disk_free": 0}, []),
        ({"cpu": 1.0}, []),  # busy is not ill
    ],
)
def test_what_is_scarce_or_hot_is_ill(changes: dict[str, Any], said: list[str]) -> None:
    assert ill(**changes) == said


def test_what_was_told_long_ago_says_nothing_of_now() -> None:
    assert ill(celsius=99.0, now=1000.0 + STALE_S) and not ill(celsius=99.0, now=1001.0 + STALE_S)
    assert list(ill_of(None, 1000.0)) == []
