"""A hub that is killed again and again in the middle of a rollout's steps: the same end, at the same times.

A kill is an exception that nothing catches, at one of the statements that the steps send to the database; what goes on
is a new engine, which knows nothing but what is stored. Real processes are killed in `tests/e2e`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from sqlalchemy import delete, event, update
from sqlmodel import col

from cloud_hub.rollouts import create
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.tables import ChannelRow, Device, DeviceModel, UsedSalt
from fleet.protocol.channel import decode_channel
from fleet.protocol.resolve import in_cohort
from fleet.rollouts.schedule import Rate, Schedule
from tests.support.hub import HubFixture
from tests.support.rollouts import begin_anew, entry, history, make_fleet, row_of
from tests.support.size import sized

SIZE, KILLS = sized(40, 500), 20
NAMES = tuple(f"sim-{number:03d}" for number in range(SIZE))
STAGES = (10.0, 50.0, 100.0)


class Killed(BaseException):
    """The hub's process is gone."""


@contextmanager
def killed_at(hub: HubFixture, statement: int) -> Iterator[Callable[[], int]]:
    """Kill whoever sends the statement of this number, counted from 1; 0: nobody. Yields how many were sent so far."""
    sent = 0

    def sends(*_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == statement:
            raise Killed

    event.listen(hub.hub.engine, "before_cursor_execute", sends)
    try:
        yield lambda: sent
    finally:
        event.remove(hub.hub.engine, "before_cursor_execute", sends)


def enrol(hub: HubFixture) -> None:
    """Simulated devices on the channel, in place of those that are there."""
    fixed = {"public_key": "-", "certificate": "-", "certificate_serial": "-", "certificate_expires_at": 0.0}
    common: dict[str, Any] = {**fixed, "channel": "stable", "enrolled_at": 0.0, "last_seen_at": hub.clock()}
    with hub.hub.session() as session:
        session.execute(delete(Device))
        session.add_all(Device(id=name, key_fingerprint=name, **common) for name in NAMES)


def follow(hub: HubFixture, asked: set[str]) -> int:
    """The devices that fall below the channel's share commit the release, and all are heard; how many were asked."""
    rollout = entry(hub).rollout
    if rollout is None:
        return len(asked)
    fresh = [name for name in NAMES if name not in asked and in_cohort(rollout.salt, name, rollout.share_ppm)]
    asked |= set(fresh)
    report: dict[str, Any] = {"model": "digits", "state": "committed", "active": 2, "rollout": rollout.id, "attempt": 1}
    with hub.hub.session() as session:
        session.add_all(DeviceModel(device_id=name, at=hub.clock(), **report) for name in fresh)
        session.execute(update(Device).values(last_seen_at=hub.clock()))
    return len(asked)


def roll_out(
    hub: HubFixture, kills: Mapping[int, Sequence[int]]
) -> tuple[list[int], list[str], dict[str, Any], list[int]]:
    """A whole rollout with a rate, a step each minute: devices asked after each, history, what is known at the end, and
    the statements that each step took.

    Args:
        kills: of each minute, the statements at which its steps are killed, one step after the other.
    """
    begin_anew(hub)
    enrol(hub)
    with hub.hub.session() as session:
        session.execute(delete(UsedSalt).where(col(UsedSalt.salt) != ""))
    row = create.create_rollout(
        hub.hub,
        model="digits",
        release=2,
        channel="stable",
        stages=STAGES,
        actor="test",
        soak_s=60.0,
        guard={"evidence": "install"},
        schedule=Schedule(rate=Rate(per_minute=SIZE / 10, factor=2.0, after=SIZE // 4)),
    )
    began, asked, sizes = hub.clock(), set[str](), list[int]()
    engine, statements = RolloutEngine(hub.hub), list[int]()
    while row_of(hub, row.id).ended_at is None:
        for statement in kills.get(len(sizes), ()):
            with killed_at(hub, statement), pytest.raises(Killed):
                engine.look()
            engine = RolloutEngine(hub.hub)
        with killed_at(hub, 0) as sent:
            engine.look()
        statements.append(sent())
        sizes.append(follow(hub, asked))
        hub.clock.advance(60.0)
        assert len(sizes) < 60
    ended = row_of(hub, row.id)
    known = {"state": ended.state, "stage": int(ended.progress["stage"]), "exposed": ended.progress["exposed"]}
    known["waves"] = [(wave["share_ppm"], wave["at"] - began) for wave in ended.progress["ordered"]["waves"]]
    return sizes, history(hub, row.id), known, statements


def test_a_hub_that_is_killed_in_the_middle_of_a_rollout_comes_to_the_same_end(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(hub)
    monkeypatch.setattr(create, "SystemRandom", lambda: Random(1))
    sizes, events, known, statements = roll_out(fleet, {})
    assert known["state"] == "finished" and sizes[-1] == SIZE == known["exposed"]
    assert events == ["started", "advanced", "advanced", "finished"]
    rng, kills = Random(2), defaultdict[int, list[int]](list)
    for _ in range(KILLS):
        minute = rng.randrange(len(statements))
        kills[minute].append(rng.randint(1, statements[minute]))
    assert roll_out(fleet, kills)[:3] == (sizes, events, known)
    with fleet.hub.reading() as session:
        channel = session.get(ChannelRow, "stable")
        assert channel is not None
        default = decode_channel(channel.document).models["digits"]
    assert (default.release, default.rollout) == (2, None)
