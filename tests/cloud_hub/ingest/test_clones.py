"""Two machines with one identity are told from one that connects often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.devices.told import told
from cloud_hub.ingest.clones import NAMES, PERIOD_S, Heard, heard
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.store.tables import AuditEntry
from fleet.protocol import topics
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import IN_USE_TWICE, Status
from tests.cloud_hub.ingest.test_bad_messages import fleet as fleet  # on each database
from tests.cloud_hub.ingest.test_bad_messages import rows
from tests.support.told import told as events


def after(names, *, every_s=1.0) -> Heard:
    found = Heard()
    for number, name in enumerate(names):
        found = heard(found, name, 1e9 + every_s * number)
    return found


@given(st.lists(st.integers(1, 50), max_size=60))
def test_one_process_after_the_other_is_no_clone_however_often_each_connects(times):
    names = [str(process) for process, often in enumerate(times) for _ in range(often)]
    assert not after(names).cloned


@pytest.mark.parametrize("machines", ["AB", "ABC", "ABCD"])
@pytest.mark.parametrize("often", [1, 3], ids=["one status each", "several"])
def test_machines_that_take_turns_are_clones(machines, often):
    turn = [name for name in machines for _ in range(often)]
    assert not after(turn).cloned
    assert after(turn * 3).cloned


@given(st.permutations(list("AAABBBCC")))
def test_names_that_came_back_twice_are_clones_in_any_order(names):
    found = [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]
    returns = len(found) - len(set(found))
    assert after(names).cloned == (returns >= 2)


def test_names_that_come_back_once_in_a_while_are_none_and_little_is_remembered():
    assert not after("ABABABABAB", every_s=1.1 * PERIOD_S).cloned
    assert len(after([str(n) for n in range(100)]).names) == NAMES


def say(fleet, *sessions, instance="", at=1.0):
    return [
        Message(
            topics.uplink("cam-1", "status"),
            encode_json(Status(state="online", session=name, at=at, instance=instance and name[0])),
        )
        for name in sessions
    ]


def shown(fleet) -> dict:
    return fleet.client.get("/api/v1/devices/cam-1", headers=fleet.auth()).json()


def test_a_cloned_device_is_shown_everywhere_and_told_until_it_is_over(fleet):
    Ingestor(fleet.hub).take(say(fleet, "a", "b", "a"))
    assert (shown(fleet)["cloned"], shown(fleet)["problem"]) == (False, "")
    ingestor = Ingestor(fleet.hub)
    ingestor.take(say(fleet, *"abab"))
    ingestor.take(say(fleet, *"ab"))
    assert (shown(fleet)["cloned"], shown(fleet)["problem"]) == (True, IN_USE_TWICE)
    assert "enrol the other anew" in shown(fleet)["hint"] and "sessions" not in shown(fleet)
    listed = fleet.client.get("/api/v1/devices", headers=fleet.auth()).json()["items"]
    assert [(item["id"], item["problem"]) for item in listed] == [("cam-1", IN_USE_TWICE), ("cam-2", "")]
    said = lambda: told(fleet.hub, "cam-1")  # noqa: E731
    assert said().in_use_twice
    assert [row.action for row in rows(fleet, AuditEntry, action="device.cloned")] == ["device.cloned"]
    assert events(fleet.hub) == [("device.cloned", "cam-1")]
    fleet.clock.advance(PERIOD_S + 1)
    assert not shown(fleet)["cloned"] and not said().in_use_twice
