"""The outbox on both databases: with what happened or not at all, each delivery by one hub at a time, bounded."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlmodel import select

from cloud_hub.events import kinds, outbox
from cloud_hub.events.kinds import Event
from cloud_hub.events.schedule import DeliveryState
from cloud_hub.store.tables import EventDelivery, EventRow
from tests.support.hub import HubFixture, make_hub

CLAIM_S = 70.0
EVENT = Event(kind="job.failed", subject="j1", message="it failed", data={"model": "m"})


@pytest.fixture
def box(tmp_path: Path, hub_database: str) -> HubFixture:
    return make_hub(tmp_path, database=hub_database)


def rows(box: HubFixture, table: type[Any]) -> list[Any]:
    with box.hub.reading() as session:
        return list(session.exec(select(table)))


def record(box: HubFixture, count: int = 1, **named: Any) -> list[str]:
    with box.hub.session() as session:
        return [outbox.record(session, EVENT, box.clock(), **named) for _ in range(count)]


def spread(box: HubFixture, *names: str) -> int:
    with box.hub.session() as session:
        return outbox.spread(session, {name: ("*",) for name in names or ("ops",)}, box.clock())


def claim(box: HubFixture, owner: str, target: str = "ops", limit: int = 4) -> list[outbox.Claimed]:
    with box.hub.session() as session:
        return outbox.claim(session, target, owner, box.clock(), lasts_s=CLAIM_S, limit=limit)


def settle(box: HubFixture, event: str, owner: str, state: Any = "delivered", next_at: float = 0.0) -> bool:
    with box.hub.session() as session:
        verdict = DeliveryState(state, next_at)
        return outbox.settle(session, event, "ops", owner, verdict, {"at": box.clock(), "status": 204}, box.clock())


def test_an_event_is_kept_with_what_happened_or_not_at_all(box):
    with pytest.raises(RuntimeError), box.hub.session() as session:
        outbox.record(session, EVENT, box.clock())
        raise RuntimeError("the transaction is rolled back")
    assert rows(box, EventRow) == []
    (event,) = record(box)
    (row,) = rows(box, EventRow)
    assert (row.id, row.kind, row.data, row.spread_at) == (event, "job.failed", {"model": "m"}, None)


def test_two_hubs_that_look_at_once_spread_and_claim_each_delivery_once(box):
    events = record(box, 12)
    gate, taken = Barrier(2), []

    def hub(owner: str) -> None:
        gate.wait()
        spread(box, "ops", "second")
        while found := claim(box, owner, limit=2):
            taken.extend((owner, one.event) for one in found)

    both = [Thread(target=hub, args=(name,)) for name in ("a", "b")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    hub_after = [one.event for one in claim(box, "late", limit=20)]  # what one had locked while the other looked
    assert sorted([event for _, event in taken] + hub_after) == sorted(events)
    assert len(rows(box, EventDelivery)) == 24


def test_a_delivery_whose_hub_died_is_tried_by_another_and_its_word_counts(box):
    (event,) = record(box)
    spread(box)
    assert [one.tries for one in claim(box, "dead")] == [1]
    assert claim(box, "other") == []
    box.clock.advance(CLAIM_S + 1)
    assert [one.tries for one in claim(box, "other")] == [2]
    assert not settle(box, event, "dead")  # it was only slow, and comes late
    assert settle(box, event, "other")
    assert not settle(box, event, "other") and claim(box, "third") == []


def test_a_claim_of_a_clock_that_ran_ahead_holds_nothing_up(box):
    record(box)
    spread(box)
    box.clock.advance(400 * 86_400.0)
    assert len(claim(box, "ahead")) == 1
    box.clock.advance(-400 * 86_400.0)
    assert len(claim(box, "right")) == 1


def test_something_said_once_is_said_once(box):
    first, again = record(box, once="key:root:1"), record(box, once="key:root:1")
    assert len(first[0]) == 28 and again == [""]
    assert record(box, once="key:root:2") != [""]


def test_of_a_kind_an_hour_holds_so_many_and_a_test_goes_to_its_target_alone(box, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_PER_HOUR", 3)
    kept = record(box, 5)
    assert list(map(bool, kept)) == [True] * 3 + [False] * 2 and len(rows(box, EventRow)) == 3
    (test,) = record(box, target="second")
    spread(box, "ops", "second")
    assert {row.target for row in rows(box, EventDelivery) if row.event == test} == {"second"}
    box.clock.advance(3601)
    assert record(box) != [""]


def test_a_noisy_subject_silences_no_other_of_its_kind(box, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_PER_HOUR", 3)
    monkeypatch.setattr(kinds, "MOST_OF_ONE", 2)
    assert list(map(bool, record(box, 4))) == [True, True, False, False]
    with box.hub.session() as session:
        others = [Event(kind="job.failed", subject=f"j{number}", message="it failed") for number in (2, 3, 3)]
        kept = [bool(outbox.record(session, one, box.clock())) for one in others]
    assert kept == [True, True, False], "the fourth of the kind is the first of its subject"


def test_what_is_said_once_is_not_forgotten_before_it_would_be_said_again(box):
    record(box, once="key.expiring:root:9:60")
    record(box)
    spread(box)
    for one in claim(box, "a"):
        settle(box, one.event, "a")
    box.clock.advance(29 * 86_400.0)
    with box.hub.session() as session:
        outbox.prune(session, box.clock(), keep_s=5 * 86_400.0, most=100)
    assert [row.once for row in rows(box, EventRow)] == ["key.expiring:root:9:60"]
    assert record(box, once="key.expiring:root:9:60") == [""]


def test_by_its_age_nothing_goes_that_waits(box):
    record(box)
    spread(box)
    late = record(box)
    box.clock.advance(400 * 86_400.0)
    with box.hub.session() as session:
        outbox.prune(session, box.clock(), keep_s=86_400.0, most=100)
    assert len(rows(box, EventRow)) == 2 and late[0] in {row.id for row in rows(box, EventRow)}


def test_what_a_clock_that_ran_ahead_has_left_takes_no_place_in_the_hour(box, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_PER_HOUR", 3)
    box.clock.advance(400 * 86_400.0)
    record(box, 3)
    box.clock.advance(-400 * 86_400.0)
    assert all(record(box, 3)) and record(box) == [""]


def test_old_events_go_with_their_deliveries_and_more_than_so_many_do(box):
    record(box, 5)
    spread(box)
    box.clock.advance(100.0)
    newest = record(box, 5)
    spread(box)
    for one in claim(box, "a", limit=20):
        settle(box, one.event, "a")
    with box.hub.session() as session:
        outbox.prune(session, box.clock(), keep_s=1000.0, most=7)
    assert len(rows(box, EventRow)) == len(rows(box, EventDelivery)) == 7
    with box.hub.session() as session:
        outbox.prune(session, box.clock(), keep_s=50.0, most=7)
    assert {row.id for row in rows(box, EventRow)} == {row.event for row in rows(box, EventDelivery)} == set(newest)


def test_a_restored_hub_sends_nothing_that_may_have_been_sent(box):
    old = record(box, 2)
    spread(box)
    unspread = record(box)
    with box.hub.session() as session:
        outbox.let_go(session, box.clock())
    assert spread(box) == 0 and claim(box, "a") == []
    assert {row.event: row.log[-1]["error"] for row in rows(box, EventDelivery)} == dict.fromkeys(old, outbox.RESTORED)
    assert unspread[0] in {row.id for row in rows(box, EventRow)}
    record(box)
    spread(box)
    assert len(claim(box, "a")) == 1


def test_what_waits_for_a_target_that_no_hub_toml_has_ends_with_a_reason(box):
    (event,) = record(box)
    spread(box, "gone", "ops")
    box.clock.advance(outbox.UNCLAIMED_S - 1)
    with box.hub.session() as session:
        assert outbox.end_removed(session, {"ops"}, box.clock()) == 0, "a hub with another hub.toml may still try it"
    box.clock.advance(2)
    with box.hub.session() as session:
        assert outbox.end_removed(session, {"ops"}, box.clock()) == 1
    found = {row.target: (row.state, [one["error"] for one in row.log]) for row in rows(box, EventDelivery)}
    assert found == {"gone": ("dead", [outbox.REMOVED]), "ops": ("waiting", [])}
    assert [one.event for one in claim(box, "a")] == [event]


def test_what_another_hub_tries_is_not_ended_by_one_that_has_no_such_target(box):
    (event,) = record(box)
    spread(box, "new")
    box.clock.advance(outbox.UNCLAIMED_S + 1)
    (claimed,) = claim(box, "a", "new")
    with box.hub.session() as session:
        assert outbox.end_removed(session, set(), box.clock()) == 0
        assert outbox.settle(session, event, "new", "a", DeliveryState("delivered", box.clock()), {}, box.clock())
    assert claimed.event == event
