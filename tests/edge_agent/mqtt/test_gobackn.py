from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.mqtt import gobackn
from edge_agent.mqtt.gobackn import FIRST_TIMEOUT_S, WINDOW, Sender
from tests.support.size import examples


def test_nothing_is_sent_before_the_connection():
    assert gobackn.room(Sender()) == 0
    assert gobackn.room(gobackn.connected(Sender(), 0.0)) == WINDOW


def test_a_reconnect_goes_back_to_the_first_record_without_a_receipt():
    sender = gobackn.sending(gobackn.connected(Sender(), 0.0), 15, 0.0)
    sender = gobackn.receipt(sender, 4, 1.0)
    assert gobackn.connected(gobackn.disconnected(sender), 2.0).sent == 4


def test_silence_goes_back_with_growing_patience():
    sender = gobackn.sending(gobackn.connected(Sender(), 0.0), 5, 0.0)
    assert gobackn.tick(sender, FIRST_TIMEOUT_S - 0.1) == sender
    back = gobackn.tick(sender, FIRST_TIMEOUT_S)
    assert (back.sent, back.timeout_s) == (0, 2 * FIRST_TIMEOUT_S)


def test_after_a_silence_one_record_asks_whether_the_hub_is_there_and_receipts_open_the_window_again():
    back = gobackn.tick(gobackn.sending(gobackn.connected(Sender(), 0.0), WINDOW, 0.0), FIRST_TIMEOUT_S)
    rooms = []
    while not rooms or rooms[-1] < WINDOW:
        rooms.append(gobackn.room(back))
        back = gobackn.receipt(gobackn.sending(back, back.sent + rooms[-1], 20.0), back.committed + rooms[-1], 20.0)
    assert rooms == [1, 2, 4, 8, 16, WINDOW]


def test_only_a_receipt_that_says_how_long_it_took_restores_patience():
    sender = gobackn.sending(gobackn.connected(Sender(), 0.0), 1, 0.0)
    sender = gobackn.sending(gobackn.tick(sender, 10.0), 1, 10.0)
    sender = gobackn.receipt(sender, 1, 10.5)  # of which of the two?
    assert sender.timeout_s == 2 * FIRST_TIMEOUT_S
    sender = gobackn.receipt(gobackn.sending(sender, 2, 20.0), 2, 20.5)
    assert sender.timeout_s == FIRST_TIMEOUT_S


def test_a_device_learns_how_long_receipts_take():
    sender = gobackn.connected(Sender(), 0.0)
    for number in range(1, 40):
        sender = gobackn.receipt(gobackn.sending(sender, number, 100.0 * number), number, 100.0 * number + 60.0)
    assert 60.0 < sender.timeout_s < 70.0


@pytest.mark.parametrize("late_s", [3.0, 30.0, 100.0, 250.0])
def test_a_hub_that_is_late_is_not_sent_everything_again(late_s: float):
    """One record a minute for six hours to a hub whose receipts take as long, though it has every record at once."""
    sender, sent, top, receipts = gobackn.connected(Sender(), 0.0), 0, 0, []
    for now in range(6 * 3600):
        top += now % 60 == 0
        while receipts and receipts[0][0] <= now:
            sender = gobackn.receipt(sender, receipts.pop(0)[1], now)
        sender = gobackn.tick(sender, now)
        count = min(top - sender.sent, gobackn.room(sender))
        if count > 0:
            sent += count
            sender = gobackn.sending(sender, sender.sent + count, now)
            receipts.append((now + late_s, sender.sent))
    assert top <= sent <= top + 10


def test_records_that_a_full_spool_gave_up_are_not_waited_for():
    sender = gobackn.lost(gobackn.sending(gobackn.connected(Sender(), 0.0), 5, 0.0), 30)
    assert (sender.committed, sender.sent, gobackn.room(sender)) == (30, 30, WINDOW)


@settings(max_examples=examples(200))
@given(st.lists(st.sampled_from(["send", "lose", "receive", "receipt", "reconnect", "tick"]), max_size=80), st.data())
def test_a_hub_that_takes_records_in_order_gets_all_of_them(events, data):
    """Once the network is good for a while everything arrives in order, whatever was lost before."""
    top, hub, now = 60, 0, 0.0
    wire: list[int] = []
    sender = gobackn.connected(Sender(), now)

    def step(event: str) -> None:
        nonlocal sender, hub, now
        if event == "send":
            upto = min(top, sender.sent + gobackn.room(sender))
            wire.extend(range(sender.sent + 1, upto + 1))
            sender = gobackn.sending(sender, upto, now)
        elif event == "lose" and wire:
            wire.pop(data.draw(st.integers(0, len(wire) - 1)))
        elif event == "receive" and wire:
            if wire.pop(0) == hub + 1:
                hub += 1
        elif event == "receipt":
            sender = gobackn.receipt(sender, hub, now)
        elif event == "reconnect":
            wire.clear()
            sender = gobackn.connected(gobackn.disconnected(sender), now)
        elif event == "tick":
            now += 400.0
            sender = gobackn.tick(sender, now)
        assert sender.sent - sender.committed <= WINDOW

    for event in events:
        step(event)
    for _ in range(10):
        step("tick")
        step("send")
        while wire:
            step("receive")
        step("receipt")
    assert hub == top == sender.committed
