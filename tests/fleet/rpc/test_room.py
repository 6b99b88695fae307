"""The room for messages that nobody has counted yet."""

from __future__ import annotations

import pytest

from fleet.rpc.room import LEAST, calls_within, memory_bytes

MESSAGE, MOST = 32 << 20, 64


@pytest.mark.parametrize(("memory", "calls"), [(256 << 20, LEAST), (4 << 30, 16), (64 << 30, MOST)])
def test_messages_that_nobody_has_counted_fit_the_machine(memory: int, calls: int) -> None:
    assert calls_within(memory, MESSAGE, MOST) == calls
    assert calls == LEAST or calls * MESSAGE <= memory / 8


def test_who_wants_fewer_calls_has_fewer() -> None:
    assert calls_within(64 << 30, MESSAGE, 2) == 2
    assert calls_within(1 << 20, MESSAGE, 2) == 2


def test_smaller_messages_make_room_for_more_calls() -> None:
    assert calls_within(4 << 30, 1 << 20, 1024) == 512


def test_a_machine_has_memory() -> None:
    assert memory_bytes() > 64 << 20
