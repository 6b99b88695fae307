"""The facts that the engine keeps of a rollout's devices equal those of all rows, whatever happened and whoever looked.

Devices report, fail, measure, fall silent, are pinned, relabelled, moved, revoked, removed and come back; the channel's
rules change, stages and attempts begin; two hubs look in turn. After each step `tests.support.rollout_facts` reads
everything anew, device by device, and both must agree to the last bit: the decision, and what it rests on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlmodel import Session, delete, select

from cloud_hub.identity.groups import group_id
from cloud_hub.rollouts.facts import Books, mark
from cloud_hub.store import quiet
from cloud_hub.store.feed import take
from cloud_hub.store.hearing import Hearing
from cloud_hub.store.tables import ChannelRow, Device, DeviceChange, DeviceModel, MeasuredRow, PairEvidence, Setting
from fleet.protocol.channel import Channel, ModelEntry, Rule, decode_channel
from fleet.rollouts import machine
from fleet.rollouts.machine import Plan, Progress, checked_plan
from fleet.rollouts.schedule import Ordered, Schedule, again, with_wave
from fleet.rollouts.stages import plan_stages
from tests.support import rollout_facts
from tests.support.databases import migrated_postgres
from tests.support.hub import START, HubFixture, make_hub
from tests.support.size import examples

NAMES = tuple(f"d-{number}" for number in range(14))
ROLLOUT, OTHER = "r-1", "elsewhere"
REASONS = ("", "crash-loop", "selftest-failed", "no-variant", "disk-full")
STATES = ("committed", "rolled_back", "downloading")
POLICY = {"margin": 0.1, "silent_after_s": 300.0, "max_p95_us": 500.0, "min_pairs": 5}


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Callable[[str], HubFixture]]:
    """A hub on each database, with two releases, made once."""
    made: dict[str, HubFixture] = {}

    def of(kind: str) -> HubFixture:
        if kind not in made:
            document = {"database": migrated_postgres(postgres, "edgeloop_kept")} if kind == "postgresql" else {}
            hub = made[kind] = make_hub(tmp_path_factory.mktemp("kept"), **document)
            hub.model()
            for seed in range(2):
                hub.release(seed=seed)
            hub.hub.publisher.change_channel("stable", lambda channel: _with(channel, ()), actor="test")
        return made[kind]

    yield of
    for hub in made.values():
        hub.hub.engine.dispose()


def _with(channel: Channel, rules: tuple[Rule, ...]) -> Channel:
    return replace(channel, models={"digits": ModelEntry(release=1, rules=rules)})


class World:
    """A fleet, a rollout's plan and progress, and the books of two hubs."""

    def __init__(self, hub: HubFixture, seed: int) -> None:
        self.hub, self.rng = hub, random.Random(seed)
        hub.clock.now = START + 37.0
        with hub.hub.session() as session:
            for table in (PairEvidence, DeviceModel, MeasuredRow, Device, Setting, DeviceChange):
                session.execute(delete(table))
            for name in NAMES:
                session.add(self.device(name))
        with hub.hub.reading() as session:
            row = session.get(ChannelRow, "stable")
            assert row is not None
            self.channel = _with(decode_channel(row.document), ())
        groups = (group_id(hub.hub.device_tokens.group_secret, "site", "a"),) if seed % 3 == 0 else ()
        self.plan: Plan = checked_plan(
            Plan(
                id=ROLLOUT,
                model="digits",
                channel="stable",
                release=2,
                from_release=1,
                salt=f"salt-{seed}",
                stages=plan_stages((20, 60, 100)),
                groups=groups,
                policy=POLICY,
                schedule=Schedule(window="00:00-00:10;00:15-12:00") if seed % 2 else None,
            )
        )
        now = hub.clock()
        ordered = Ordered() if seed % 2 else None
        self.progress = Progress(started_at=now, stage_times=(now,), deadline_from=now, ordered=ordered)
        self.books = [Books(hub.hub), Books(hub.hub)]

    def device(self, name: str) -> Device:
        return Device(
            id=name,
            public_key="-",
            key_fingerprint=name,
            certificate="-",
            certificate_serial="-",
            certificate_expires_at=0.0,
            enrolled_at=0.0,
            last_seen_at=self.hub.clock(),
            channel="stable",
            labels={"site": self.rng.choice("ab")},
            info={"hardware": {"machine": self.rng.choice(("pi", "pc"))}},
        )

    def row(self, session: Session, name: str) -> Device:
        """The device, which may have to enrol first."""
        found = session.get(Device, name)
        if found is None:
            found = self.device(name)
            session.add(found)
            session.flush()
        return found

    # What may happen; each takes the session and a device's name.

    def reports(self, session: Session, name: str) -> None:
        rng = self.rng
        self.row(session, name)
        fields = {
            "state": rng.choice(STATES),
            "active": rng.choice((1, 2)),
            "target": rng.choice((1, 2)),
            "rollout": rng.choice((ROLLOUT, ROLLOUT, "")),
            "attempt": rng.choice((1, 1, 2)),
            "reason": rng.choice(REASONS),
            "untried": rng.random() < 0.2,
            "at": self.hub.clock() - rng.choice((0, 0, 5000)),
        }
        session.merge(DeviceModel(device_id=name, model="digits", **fields))

    def brings(self, session: Session, name: str) -> None:
        rng = self.rng
        key = (ROLLOUT, rng.choice((1, 1, 1, 2)), name)
        row = session.get(PairEvidence, key) or PairEvidence(rollout=key[0], attempt=key[1], device_id=name)
        row.both += rng.choice((0, 3, 40))
        row.only_old += rng.choice((0, 0, 0, 9))
        row.only_new += rng.choice((0, 0, 1))
        row.repeats += rng.choice((0, 2, 1 << 61 if row.repeats < 1 << 61 else 0))
        row.answered += rng.choice((0, 50))
        row.newly_refused += rng.choice((0, 0, 0, 4))
        session.add(row)

    def measures(self, session: Session, name: str) -> None:
        self.row(session, name)
        session.merge(
            MeasuredRow(
                device_id=name,
                model="digits",
                release=self.rng.choice((1, 2, 2)),
                runtime="litert",
                rounds=5,
                p50_us=1.0,
                variant=self.rng.choice("xy"),
                p95_us=self.rng.choice((90.0, 100.5, 900.0)),
                load_us=1.0,
                memory_bytes=1,
                process_bytes=1,
                at=self.hub.clock(),
            )
        )

    def is_heard(self, session: Session, name: str) -> None:
        row, now = self.row(session, name), self.hub.clock()
        quiet.heard(row, now, Hearing(noted_at=now))
        row.last_seen_at = now
        session.add(row)

    def all_are_heard(self, session: Session, name: str) -> None:
        for device in list(session.exec(select(Device.id))):
            if self.rng.random() < 0.8:
                self.is_heard(session, device)

    def is_pinned(self, session: Session, name: str) -> None:
        row = self.row(session, name)
        row.pins = {} if row.pins else {"digits": self.rng.choice((1, 2))}
        session.add(row)

    def is_relabelled(self, session: Session, name: str) -> None:
        row = self.row(session, name)
        row.labels = {"site": self.rng.choice("abc")} | ({"hw": "rpi"} if self.rng.random() < 0.3 else {})
        session.add(row)

    def moves(self, session: Session, name: str) -> None:
        row = self.row(session, name)
        row.channel = self.rng.choice(("stable", OTHER))
        session.add(row)

    def is_revoked_or_let_back(self, session: Session, name: str) -> None:
        row = self.row(session, name)
        row.revoked_at = self.hub.clock() if row.revoked_at is None else None
        session.add(row)

    def is_removed(self, session: Session, name: str) -> None:
        for table in (DeviceModel, MeasuredRow):
            session.execute(delete(table).where(table.device_id == name))
        session.execute(delete(Device).where(Device.id == name))

    # What else may happen.

    def time_passes(self) -> None:
        self.hub.clock.advance(self.rng.choice((1.0, 50.0, 119.0, 290.0, 700.0, 5000.0)))

    def rules_change(self) -> None:
        group = group_id(self.hub.hub.device_tokens.group_secret, "site", "b")
        rules = () if self.channel.models["digits"].rules else (Rule(groups=(group,), release=1),)
        self.channel = _with(self.channel, rules)

    def stage_begins(self) -> None:
        if self.progress.stage < 2:
            times = (*self.progress.stage_times, self.hub.clock())
            self.progress = replace(self.progress, stage=self.progress.stage + 1, stage_times=times)

    def more_is_ordered(self) -> None:
        ordered, now = self.progress.ordered, self.hub.clock()
        if ordered is not None:
            most = self.plan.stages[self.progress.stage].share_ppm
            share = min(most, ordered.share_ppm + self.rng.randrange(most // 2))
            waved = with_wave(replace(ordered, share_ppm=share), self.progress.stage_times[-1], now)
            self.progress = replace(self.progress, ordered=waved)

    def attempt_begins(self) -> None:
        times = (self.hub.clock(),) * len(self.progress.stage_times)
        self.progress = replace(self.progress, attempt=self.progress.attempt + 1, stage_times=times, verdict=None)
        if self.progress.ordered is not None:
            self.progress = replace(self.progress, ordered=again(self.progress.ordered, 0, self.hub.clock()))

    # What has to hold.

    def look(self, which: int, *, take: bool, marking: bool) -> None:
        """One hub's step: what it keeps, and what all rows say."""
        books, now = self.books[which], self.hub.clock()
        deaf_until = self.rng.choice((0.0, 0.0, now - 100.0))
        if take:
            books.look([ROLLOUT])
        with self.hub.hub.session() as session:
            kept, failed = books.gather(session, self.plan, self.progress, self.channel, deaf_until, now)
            secret = self.hub.hub.device_tokens.group_secret
            read = rollout_facts.gather(session, self.plan, self.progress, self.channel, secret)
            read = replace(read, deaf_until=deaf_until)
            assert failed == rollout_facts.unmarked(session, self.plan, self.progress, read)
            silent = machine.newly_silent(self.plan, self.progress, kept, now)
            assert sorted(silent) == sorted(machine.newly_silent(self.plan, self.progress, read, now))
            joined = machine.joined(self.plan, self.progress, now)
            assert kept.tally(joined, 300.0, now) == read.tally(joined, 300.0, now)
            assert kept.latencies() == read.latencies()
            decision = machine.decide(self.plan, self.progress, kept, now)
            assert decision == machine.decide(self.plan, self.progress, read, now)
            if marking:
                mark(session, self.plan, self.progress, failed, silent, now)


DEVICE = (
    "reports",
    "reports",
    "reports",
    "brings",
    "brings",
    "brings",
    "measures",
    "is_heard",
    "is_heard",
    "all_are_heard",
    "all_are_heard",
    "is_pinned",
    "is_relabelled",
    "moves",
    "is_revoked_or_let_back",
    "is_removed",
)
WORLD = (
    "time_passes",
    "time_passes",
    "time_passes",
    "time_passes",
    "rules_change",
    "more_is_ordered",
    "stage_begins",
    "attempt_begins",
)
STEPS = 70


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@settings(max_examples=examples(3), phases=[Phase.explicit, Phase.generate])  # nothing shrinks that a seed decides
@given(seed=st.integers(0, 1_000_000))
def test_what_is_kept_is_what_all_rows_say(hubs: Callable[[str], HubFixture], kind: str, seed: int) -> None:
    world = World(hubs(kind), seed)
    rng = world.rng
    for _ in range(STEPS):
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            with world.hub.hub.session() as session:
                getattr(world, rng.choice(DEVICE))(session, rng.choice(NAMES))
        if rng.random() < 0.5:
            getattr(world, rng.choice(WORLD))()
        world.look(rng.choice((0, 0, 0, 0, 0, 1)), take=rng.random() < 0.8, marking=rng.random() < 0.5)


def test_a_change_that_ends_after_a_later_one_was_taken_is_not_missed(hubs: Callable[[str], HubFixture]) -> None:
    world = World(hubs("postgresql"), 1)
    world.look(0, take=True, marking=False)
    with Session(world.hub.hub.engine) as slow, slow.begin():
        world.brings(slow, NAMES[0])
        slow.flush()  # numbered, and not to be seen yet
        with world.hub.hub.session() as session:
            world.brings(session, NAMES[1])
        world.look(0, take=True, marking=False)
    world.look(0, take=True, marking=False)


def test_a_device_that_was_heard_again_in_the_same_two_minutes_is_not_taken_for_silent(
    hubs: Callable[[str], HubFixture],
) -> None:
    world = World(hubs("sqlite"), 1)
    world.hub.clock.now = START + 121.0
    for after in (0.0, 80.0):  # the second time is not noted
        world.hub.clock.advance(after)
        with world.hub.hub.session() as session:
            for name in NAMES:
                world.is_heard(session, name)
        world.look(0, take=True, marking=False)
    for after in (209.0, 2.0, 80.0, 20.0, 300.0):
        world.hub.clock.advance(after)
        world.look(0, take=True, marking=True)


def test_who_takes_from_the_feed_is_the_only_one_that_may_rely_on_it(hubs: Callable[[str], HubFixture]) -> None:
    world = World(hubs("sqlite"), 1)
    with world.hub.hub.session() as session:
        assert take(session, "a") is None
        world.is_pinned(session, NAMES[0])
    with world.hub.hub.session() as session:
        changed = take(session, "a")
        assert changed is not None and changed.devices == {NAMES[0]} and not changed.heard
        assert take(session, "b") is None and take(session, "a") is None
        assert take(session, "a") == (set(), set())


def test_a_device_is_noted_when_it_is_heard_after_a_while(hubs: Callable[[str], HubFixture]) -> None:
    world = World(hubs("postgresql"), 1)

    def heard_after(seconds: float) -> Any:
        world.hub.clock.advance(seconds)
        with world.hub.hub.session() as session:
            row = world.row(session, NAMES[0])
            row.last_seen_at = world.hub.clock()
            session.add(row)
        with world.hub.hub.session() as session:
            return take(session, "a")

    heard_after(0.0)
    assert heard_after(1.0) == (set(), set())
    assert heard_after(120.0) == (set(), {NAMES[0]})
