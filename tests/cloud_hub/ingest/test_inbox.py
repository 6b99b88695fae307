"""The inbox: each device's order stays, nobody waits for a device that floods, and nothing grows without a bound."""

from __future__ import annotations

from collections import defaultdict
from itertools import count

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from cloud_hub.ingest import inbox
from cloud_hub.ingest.inbox import BURST, BYTES_BURST, BYTES_PER_S, PER_S, SHARE, SHARE_BYTES, Inbox
from tests.support.size import examples

DEVICES = ("a", "b", "c")
LEAVES = ("report", "telemetry", "status")


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from(DEVICES), st.sampled_from(LEAVES)),
            st.tuples(st.just("take"), st.integers(1, 30), st.floats(0.0, 2.0)),
        ),
        max_size=200,
    )
)
@settings(max_examples=examples(50), deadline=None)
def test_what_is_kept_comes_out_once_in_each_devices_order(steps: list[tuple[str, object, object]]) -> None:
    box, now, number = Inbox(), 0.0, 0
    kept: dict[str, list[bytes]] = defaultdict(list)
    taken: dict[str, list[bytes]] = defaultdict(list)

    def take(most: int) -> None:
        for message in box.take(most, now):
            taken[message.topic.split("/")[0]].append(message.payload)

    for what, one, other in steps:
        if what == "put":
            number += 1
            if box.put(f"{one}/{other}", str(number).encode()):
                kept[str(one)].append(str(number).encode())
        else:
            assert isinstance(one, int) and isinstance(other, float)
            now += other
            take(one)
        assert len(box) == sum(map(len, kept.values())) - sum(map(len, taken.values()))
    for _ in range(100):
        now += 10.0
        take(1000)
    assert taken == kept and len(box) == 0


def test_one_after_the_other_in_turn() -> None:
    box = Inbox()
    for number in range(3):
        for device in DEVICES:
            box.put(f"{device}/report", bytes([number]))
    found = [message.topic[0] for message in box.take(9, 0.0)]
    assert found == [*DEVICES] * 3


def served(flooding: int, seconds: int) -> tuple[float, int]:
    """The longest wait of a device that sends once a second, beside others that fill their share; and theirs taken."""
    box, waits, theirs, sent = Inbox(), [], 0, {}
    for tick in range(seconds * 10):
        now = tick / 10
        for number in range(flooding):
            while box.put(f"flood-{number}/report", b"x"):
                pass
        if tick % 10 == 0:
            box.put("good/report", str(tick).encode())
            sent[str(tick).encode()] = now
        for message in box.take(500, now):
            if message.topic.startswith("good"):
                waits.append(now - sent.pop(message.payload))
            else:
                theirs += 1
    assert not sent
    return max(waits), theirs


@pytest.mark.parametrize("flooding", [1, 20, 210])
def test_a_flood_delays_nobody(flooding: int) -> None:
    wait, theirs = served(flooding, 10)
    assert wait <= 0.1
    assert theirs <= flooding * (BURST + 10 * PER_S)


def test_bytes_count_too() -> None:
    box, taken = Inbox(), 0
    for tick in range(600):
        while box.put("big/telemetry", b"x" * 60_000):
            pass
        taken += sum(len(message.payload) for message in box.take(500, tick / 10))
    assert taken <= BYTES_BURST + 60 * BYTES_PER_S + 60_000
    assert taken >= 60 * BYTES_PER_S


def test_what_is_dropped_is_named_once() -> None:
    box = Inbox()
    assert [box.put("a/report", b"x") for _ in range(SHARE + 5)].count(True) == SHARE
    assert not box.put("b/report", b"x" * (SHARE_BYTES + 1))
    assert box.named() == {"a": 5, "b": 1} and box.named() == {}


def test_an_agent_that_keeps_to_the_rules_is_never_named() -> None:
    """Twenty in flight, and twenty more after each receipt, without end: slowed, and nothing is dropped."""
    box, in_flight, taken, numbers = Inbox(), 0, 0, count()
    for tick in range(1200):
        while in_flight < 20:
            assert box.put("back/telemetry", next(numbers).to_bytes(4000))
            in_flight += 1
        found = len(box.take(500, tick / 10))
        in_flight, taken = in_flight - found, taken + found
    assert box.named() == {} and taken >= 120 * PER_S


def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST", 100)
    box = Inbox()
    assert [box.put(f"d{number % 10}/report", bytes([number])) for number in range(150)].count(True) == 100
    assert len(box) == 100 and box.named() == {}, "a full hub is no device's fault"
    assert box.put("e/report", b"x") and not box.put("e/report", b"y"), "one of each is always taken"
    assert len(box.take(1000, 0.0)) == 101 and len(box) == 0
    monkeypatch.setattr(inbox, "MOST_BYTES", 1000)
    assert [box.put(f"f{number}/report", b"x" * 100) for number in range(50)].count(True) == 20
    assert len(box.take(1000, 1.0)) == 20
    monkeypatch.setattr(inbox, "REMEMBERED", 10)
    for number in range(1000):
        box.put(f"e{number}/report", b"x")
        box.take(1, 1.0)
    assert len(box._allowances) <= 10 and not box._waiting and not box._sizes


def test_what_is_sent_again_while_it_waits_is_kept_once() -> None:
    box = Inbox()
    for _ in range(3):
        for number in range(4):
            assert box.put("a/telemetry", bytes([number]))
    box.put("b/telemetry", b"\x00")
    assert [message.payload[0] for message in box.take(100, 0.0)] == [0, 0, 1, 2, 3] and not box.named()
    assert box.put("a/telemetry", b"\x00") and len(box) == 1  # it has been taken since, and is answered again


def test_two_statuses_of_one_kind_are_two() -> None:
    box = Inbox()
    assert box.put("a/status", b"online") and box.put("a/status", b"online") and len(box) == 2


def test_a_device_that_repeats_one_record_without_end_is_named() -> None:
    box = Inbox()
    assert [box.put("a/report", b"x") for _ in range(2 * SHARE)].count(True) == SHARE
    assert box.named() == {"a": SHARE} and len(box) == 1 and not box.named()
