"""Pauses after connections that did not last."""

from __future__ import annotations

import random

import pytest

from edge_agent.mqtt.reconnecting import (
    FREE,
    MOST_S,
    MOST_TWICE_S,
    SOON_S,
    Reconnecting,
    Unsteady,
    ended,
    reconnect_pause_s,
)
from edge_agent.mqtt.troubles import unsteady


def pauses(lasting, *, twice=False, chance=0.5):
    """The pauses after connections that lasted so long, in seconds."""
    state, found = Unsteady(), []
    for lasted in lasting:
        state = ended(state, lasted, twice=twice)
        found.append(reconnect_pause_s(state, chance, twice=twice))
    return found


def test_pauses_grow_while_connections_end_soon_and_stay_below_a_minute():
    assert pauses([1] * 10) == [0, 0, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pauses([1] * 3000)[-1] == MOST_S


def test_a_connection_that_lasted_starts_afresh():
    assert pauses([1, 1, 1, SOON_S + 1, 1, 1, 1]) == [0, 0, 2, 0, 0, 0, 2]


def test_when_the_hub_says_that_the_identity_is_in_use_twice_they_grow_on_whatever_lasts():
    found = pauses([1, 1, 1, 3600, 3600, 3600, *[500] * 10], twice=True)
    assert found[:6] == [0, 0, 2, 4, 8, 16] and found[-1] == MOST_TWICE_S


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_chance_keeps_two_from_keeping_step(chance):
    assert pauses([1] * 5, chance=chance)[2:] == [2 * (0.5 + chance), 4 * (0.5 + chance), 8 * (0.5 + chance)]


@pytest.mark.parametrize("seed", range(5))
def test_two_clones_leave_the_connection_to_one_of_them_most_of_the_time(seed):
    """Both run the rule; the one that connects takes the connection over from the other."""
    rng = random.Random(seed)
    clock, twice = [0.0], [False]
    machines = [Reconnecting(lambda: twice[0], now=lambda: clock[0], rng=rng.random) for _ in range(2)]
    due: list[float | None] = [0.0, 0.5]
    takeovers = []
    while clock[0] < 7200.0:
        mine = min((index for index in (0, 1) if due[index] is not None), key=lambda index: due[index])
        clock[0], due[mine] = due[mine], None
        machines[mine].accepted()
        pause = machines[1 - mine].ended()
        if pause is not None:
            takeovers.append(clock[0])
            due[1 - mine] = clock[0] + max(1.0, pause)
        twice[0] = len(takeovers) > 10  # as soon as the hub has seen it
    last_hour = [at for at in takeovers if at > 3600.0]
    assert len(last_hour) <= 15  # of 3,600 when each comes back after a second


def test_a_refused_login_is_no_connection_that_ended():
    machine = Reconnecting(lambda: False, now=lambda: 0.0)
    assert machine.ended() is None and machine.unsteady == Unsteady()


def test_it_is_named_when_it_goes_on_and_blames_nobody():
    assert unsteady("Unspecified error", FREE) is None
    found = unsteady("Unspecified error", FREE + 1)
    assert found.reason == "does-not-last" and "a bad line, or another machine" in found.hint
