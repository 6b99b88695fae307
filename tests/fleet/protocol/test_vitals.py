"""A machine's numbers are those that a machine can have, and few bytes; one that is not takes no other along."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from fleet.protocol.codec import encode_json
from fleet.protocol.vitals import Vitals, mended_vitals

FULL = Vitals(cpu=0.25, memory=1 << 30, memory_free=1 << 29, disk=1 << 36, disk_free=1 << 35, celsius=51.5)


@pytest.mark.parametrize("good", [Vitals(), FULL, Vitals(memory_free=5), Vitals(cpu=0.0, celsius=-40.0)], ids=str)
def test_what_a_machine_may_tell_is_taken(good: Vitals) -> None:
    assert mended_vitals(good) == (good, ())


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ({"cpu": 1.01}, ["cpu"]),
        ({"cpu": -0.01}, ["cpu"]),
        ({"cpu": math.nan, "celsius": math.inf}, ["celsius", "cpu"]),
        ({"celsius": 1e6}, ["celsius"]),
        ({"memory": -1}, ["memory"]),
        ({"memory": (1 << 64) - 1, "memory_free": 5}, ["memory"]),
        ({"memory": 5, "memory_free": 6}, ["memory_free"]),
        ({"disk": 5, "disk_free": 6}, ["disk_free"]),
        ({"disk_free": 1 << 62}, ["disk_free"]),
    ],
    ids=str,
)
def test_what_no_machine_has_is_left_out_and_named_and_the_rest_stays(bad: dict[str, float], names: list[str]) -> None:
    told = replace(FULL, **bad)
    mended, found = mended_vitals(told)
    assert list(found) == names
    assert mended == replace(told, **dict.fromkeys(names))
    assert mended_vitals(mended) == (mended, ())


def test_it_is_few_bytes_and_nothing_where_nothing_is_known() -> None:
    assert encode_json(Vitals()) == b"{}"
    assert len(encode_json(FULL)) < 150
