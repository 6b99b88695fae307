"""Hubs on one database share the shards of the ingest; whoever lost one writes nothing of it any more."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import col, select

from cloud_hub.config_tables import BrokerConfig
from cloud_hub.errors import ConflictError
from cloud_hub.ingest.commands import send_command, waiting
from cloud_hub.ingest.ingestor import Ingestor, Message
from cloud_hub.ingest.shards import ALL, LEASE_S, LOOK_S, Shards, fair
from cloud_hub.store.tables import Device, DeviceEvent, Lease, OutboxCommand
from fleet.protocol import topics
from tests.cloud_hub.ingest.test_bad_messages import good, rows
from tests.support.databases import migrated_postgres
from tests.support.hub import HubFixture, make_hub

NAMES = [f"cam-{number}" for number in range(64)]


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True), min_size=1, max_size=6))
def test_every_shard_has_one_owner_and_nobody_more_than_the_fair_part(changes: list[list[str]]) -> None:
    owners: dict[str, str] = {}
    for hubs in changes:  # hubs come and go; those who stay look a few times in turn
        for me in hubs * 3:
            mine = fair(me, owners, hubs)
            assert all(owners.get(digit) in (None, me) or owners[digit] not in hubs for digit in mine)
            owners = {digit: owner for digit, owner in owners.items() if owner != me} | dict.fromkeys(mine, me)
        counts = [list(owners.values()).count(me) for me in hubs]
        assert set(owners) == ALL and sum(counts) == 16 and max(counts) <= -(-16 // len(hubs))


def test_a_hub_on_sqlite_hears_everybody_and_asks_nobody(hub: HubFixture) -> None:
    shards = Shards(hub.hub)
    assert shards.digits == shards.look() == ALL
    with hub.hub.session() as session:
        assert shards.fence(session, ["a"]) >= {"a"}
    shards.leave()
    assert rows(hub, Lease) == []


@pytest.fixture
def fleet(tmp_path: Path, postgres: str) -> Iterator[HubFixture]:
    broker = {"kind": "external", "host": "broker"}
    made = make_hub(tmp_path, database=migrated_postgres(postgres, "edgeloop_shards"), broker=broker)
    with made.hub.session() as session:
        for name in NAMES:
            session.add(
                Device(
                    id=name,
                    public_key="-",
                    key_fingerprint=name,
                    certificate="-",
                    certificate_serial="1",
                    certificate_expires_at=0.0,
                    channel="stable",
                    enrolled_at=0.0,
                )
            )
    yield made
    made.hub.engine.dispose()


def kill(fleet: HubFixture, shards: Shards) -> None:
    """Its lease is over, as when it was killed or paused for long."""
    with fleet.hub.session() as session:
        session.connection().execute(
            text("UPDATE lease SET until = 0 WHERE name = :name"), {"name": f"ingest-hub:{shards._owner}"}
        )


def test_one_that_joins_is_given_its_part_and_one_that_is_killed_is_replaced(fleet: HubFixture) -> None:
    first, second, third = (Shards(fleet.hub) for _ in range(3))
    assert first.digits == frozenset() and first.look() == ALL
    assert second.look() == frozenset()  # nothing is free yet
    assert len(first.look()) == 8 and second.look() == ALL - first.digits
    third.look()
    first.look(), second.look()
    assert third.look() | first.digits | second.digits == ALL
    assert sorted(map(len, (first.digits, second.digits, third.digits))) == [4, 6, 6]
    kill(fleet, third)
    first.look(), second.look()
    assert first.look() | second.look() == ALL and not first.digits & second.digits
    second.leave()
    assert first.look() == ALL
    assert third.look() == frozenset()  # it was not dead: it comes as a new one


def test_a_lease_is_over_when_nobody_looks(fleet: HubFixture) -> None:
    first, second = Shards(fleet.hub), Shards(fleet.hub)
    first.look(), second.look(), first.look(), second.look()
    for _ in range(10):  # one that looks keeps its part
        fleet.clock.advance(LOOK_S)
        assert len(first.look()) == len(second.look()) == 8
    fleet.clock.advance(LEASE_S)
    assert second.look() == ALL


def with_own_broker(fleet: HubFixture, kind: str) -> Shards:
    """A hub on the same database that starts a broker; `auto` is what a configuration says that says nothing."""
    config = fleet.hub.config.model_copy(update={"broker": BrokerConfig(kind=kind)})  # type: ignore[arg-type]
    return Shards(dataclasses.replace(fleet.hub, config=config))


@pytest.mark.parametrize("kind", ["auto", "embedded", "mosquitto"])
def test_a_second_hub_with_a_broker_of_its_own_hears_nobody_and_says_why(fleet: HubFixture, kind: str) -> None:
    first, second, joined = with_own_broker(fleet, "auto"), with_own_broker(fleet, kind), Shards(fleet.hub)
    assert first.look() == ALL
    for _ in range(3):
        with pytest.raises(ConflictError, match="runs a broker of its own") as refused:
            second.look()
        assert 'kind = "external"' in refused.value.hint and second.digits == frozenset()
        assert first.look() == ALL  # nobody waits for a hub that does not hear
    joined.look(), first.look()
    assert len(joined.look()) == len(first.look()) == 8
    first.leave()
    second.look(), joined.look()
    assert second.look() | joined.look() == ALL


def test_a_hub_that_was_paused_gives_its_broker_up_when_another_has_started_one(fleet: HubFixture) -> None:
    paused, other = with_own_broker(fleet, "auto"), with_own_broker(fleet, "auto")
    paused.look()
    fleet.clock.advance(LEASE_S)
    assert other.look() == ALL
    paused.check()  # it does not know yet
    for ask in (paused.look, paused.check):
        with pytest.raises(ConflictError):
            ask()
    assert paused.digits == frozenset() and other.look() == ALL


def message(name: str, seq: int = 1) -> Message:
    return good(seq, name)


def taken(fleet: HubFixture) -> set[str]:
    return {event.device_id for event in rows(fleet, DeviceEvent)}


def test_of_a_shard_that_was_lost_nothing_is_written(fleet: HubFixture) -> None:
    paused, other = Shards(fleet.hub), Shards(fleet.hub)
    ingestor = Ingestor(fleet.hub, paused.fence)
    paused.look()
    assert len(ingestor.take([message(name) for name in NAMES])) == len(NAMES)
    kill(fleet, paused)
    other.look()
    assert ingestor.take([message(name, 2) for name in NAMES]) == []  # no receipt, either
    assert ingestor.counts["elsewhere"] == len(NAMES)
    assert len(rows(fleet, DeviceEvent)) == len(NAMES)
    assert len(Ingestor(fleet.hub, other.fence).take([message(name, 2) for name in NAMES])) == len(NAMES)


def test_a_batch_is_written_whole_before_its_shards_move(fleet: HubFixture) -> None:
    """The owner is paused between the fence and the commit: its shards stay until then, and the others move at once."""
    paused, other = Shards(fleet.hub), Shards(fleet.hub)
    paused.look()
    busy = topics.shard(NAMES[0])
    with fleet.hub.session() as session:
        assert paused.fence(session, [busy]) == {busy}
        kill(fleet, paused)
        found: list[frozenset[str]] = []
        thread = threading.Thread(target=lambda: found.append(other.look()))
        thread.start()
        thread.join(60)
        assert found == [ALL - {busy}]  # it does not wait, either
    assert other.look() == ALL
    with fleet.hub.session() as session:
        assert paused.fence(session, ALL) == frozenset()


def test_a_transaction_that_is_paused_for_long_is_ended_by_the_database(fleet: HubFixture) -> None:
    with fleet.hub.reading() as session:
        assert session.connection().execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one() == "2min"


def test_each_hub_sends_the_commands_of_its_own_devices(fleet: HubFixture) -> None:
    first, second = Shards(fleet.hub), Shards(fleet.hub)
    first.look(), second.look(), first.look(), second.look()
    for name in NAMES:
        send_command(fleet.hub, name, "diagnose", {})
    sent = [{topic.split("/")[-2] for _, topic, _ in waiting(fleet.hub, shards)} for shards in (first, second)]
    assert sent[0] | sent[1] == set(NAMES) and not sent[0] & sent[1]
    assert sent[0] == {name for name in NAMES if topics.shard(name) in first.digits}
    kill(fleet, first)
    second.look()
    assert waiting(fleet.hub, first) == []  # it thinks that it may
    assert len(waiting(fleet.hub, second)) == len(NAMES)


def test_postgresql_and_the_protocol_mean_the_same_shard(fleet: HubFixture) -> None:
    for digit in topics.DIGITS:
        shards = Shards(fleet.hub)
        shards.digits = frozenset(digit)
        with fleet.hub.reading() as session:
            found = set(session.exec(select(Device.id).where(shards.among(col(Device.id)))))
        assert found == {name for name in NAMES if topics.shard(name) == digit}
    assert rows(fleet, OutboxCommand) == []
