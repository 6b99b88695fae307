"""A machine's numbers are those that a machine can have, and few bytes."""

from __future__ import annotations

import math

import pytest

from fleet.protocol.codec import encode_json
from fleet.protocol.errors import MalformedError
from fleet.protocol.vitals import Vitals, check_vitals

FULL = Vitals(cpu=0.25, memory=1 << 30, memory_free=1 << 29, disk=1 << 36, disk_free=1 << 35, celsius=51.5)


@pytest.mark.parametrize("good", [Vitals(), FULL, Vitals(memory_free=5), Vitals(cpu=0.0, celsius=-40.0)], ids=str)
def test_what_a_machine_may_tell_is_taken(good: Vitals) -> None:
    assert check_vitals(good) is good


@pytest.mark.parametrize(
    "bad",
    [
        {"cpu": 1.01},
        {"cpu": -0.01},
        {"cpu": math.nan},
        {"celsius": math.inf},
        {"celsius": 1e6},
        {"memory": -1},
        {"memory": (1 << 64) - 1},
        {"memory": 5, "memory_free": 6},
        {"disk": 5, "disk_free": 6},
        {"disk_free": 1 << 62},
    ],
    ids=str,
)
def test_what_no_machine_has_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(MalformedError, match=r"vitals\."):
        check_vitals(Vitals(**bad))  # type: ignore[arg-type]


def test_it_is_few_bytes_and_nothing_where_nothing_is_known() -> None:
    assert encode_json(Vitals()) == b"{}"
    assert len(encode_json(FULL)) < 150
