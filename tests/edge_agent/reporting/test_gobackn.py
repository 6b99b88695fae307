from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.reporting import gobackn
from edge_agent.reporting.gobackn import FIRST_TIMEOUT_S, WINDOW, Sender
from tests.support.size import examples


def test_nothing_is_sent_before_the_connection():
    assert gobackn.room(Sender()) == 0
    assert gobackn.room(gobackn.connected(Sender(), 0.0)) == WINDOW


def test_a_reconnect_goes_back_to_the_first_record_without_a_receipt():
    sender = gobackn.sending(gobackn.connected(Sender(), 0.0), 15, 0.0)
    sender = gobackn.receipt(sender, 4, 1.0)
    assert gobackn.connected(gobackn.disconnected(sender), 2.0).sent == 4


def test_silence_goes_back_with_growing_patience_and_a_receipt_restores_it():
    sender = gobackn.sending(gobackn.connected(Sender(), 0.0), 5, 0.0)
    assert gobackn.tick(sender, FIRST_TIMEOUT_S - 0.1) == sender
    back = gobackn.tick(sender, FIRST_TIMEOUT_S)
    assert (back.sent, back.timeout_s) == (0, 2 * FIRST_TIMEOUT_S)
    assert gobackn.receipt(back, 1, 11.0).timeout_s == FIRST_TIMEOUT_S


def test_records_that_a_full_spool_gave_up_are_not_waited_for():
    sender = gobackn.lost(gobackn.sending(gobackn.connected(Sender(), 0.0), 5, 0.0), 30)
    assert (sender.committed, sender.sent, gobackn.room(sender)) == (30, 30, WINDOW)


@settings(max_examples=examples(200))
@given(st.lists(st.sampled_from(["send", "lose", "receive", "receipt", "reconnect", "tick"]), max_size=80), st.data())
def test_a_hub_that_takes_records_in_order_gets_all_of_them(events, data):
    """Whatever is lost, once the network is good for a while everything arrives, in order."""
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
