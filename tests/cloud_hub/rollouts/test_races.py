"""Orders, steps, new rollouts, channel changes and withdrawals that meet: each is before or after the other.

Each test lets the second call come in between the reading and the writing of the first, on both databases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError

from cloud_hub.errors import HubError
from cloud_hub.rollouts import create, engine, orders
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.rollouts.facts import Book, Books
from cloud_hub.store.tables import ChannelRow, RolloutRow
from cloud_hub.trust.channels import EntryChanges, changed_entry
from fleet.protocol.channel import Channel, encode_channel
from fleet.rollouts.schedule import Rate, Schedule
from tests.support.databases import migrated_postgres
from tests.support.hub import HubFixture, make_hub
from tests.support.races import DEADLINE_S, Meanwhile, between
from tests.support.rollouts import (
    DEVICES,
    GUARD,
    begin_anew,
    cohort,
    entry,
    evidence,
    history,
    live,
    make_fleet,
    row_of,
    say,
    start,
)

ENDED = ("finished", "halted", "aborted")
# What a step decides, by what is known of the cohort.
STEPS = {"advances": ["good"], "halts": ["bad"], "finishes": ["good", "good"], "waits": []}
ORDERS = ("pause", "abort", "retry", "resume")
# SQLite has one writer, so one pair of each kind says it all there; PostgreSQL gets every pair.
PAIRS = [("postgresql", name, step) for name in ORDERS for step in STEPS] + [("sqlite", "abort", "advances")]
every_pair = pytest.mark.parametrize(("fleet", "name", "step"), PAIRS, indirect=["fleet"])


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Callable[[str], HubFixture]]:
    """A fleet on each database, made once."""
    found: dict[str, HubFixture] = {}

    def of(kind: str) -> HubFixture:
        if kind not in found:
            document = {"database": migrated_postgres(postgres, "edgeloop_races")} if kind == "postgresql" else {}
            found[kind] = make_fleet(make_hub(tmp_path_factory.mktemp("races"), **document))
        return found[kind]

    yield of
    for hub in found.values():
        hub.hub.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, fleets: Callable[[str], HubFixture]) -> HubFixture:
    """As if nothing had been rolled out yet."""
    hub = fleets(request.param)
    begin_anew(hub)
    return hub


@pytest.fixture
def meanwhile(fleet: HubFixture) -> Iterator[Meanwhile]:
    found = Meanwhile(fleet.hub.engine)
    yield found
    found.close()


def order(fleet: HubFixture, rollout: str, name: str) -> str:
    return said_by(lambda: orders.apply_order(fleet.hub, rollout, name, "", "operator:x"))


def ready(fleet: HubFixture, name: str, steps: list[str]) -> str:
    """A rollout whose next step decides what the case wants; paused when the order is to resume."""
    rollout = start(fleet, 3 if "bad" in steps else 2)
    for step in steps[:-1]:
        evidence(fleet, rollout, good=step == "good")
        RolloutEngine(fleet.hub).look()
    if steps:
        evidence(fleet, rollout, good=steps[-1] == "good")
    if name == "resume":
        assert order(fleet, rollout, "pause") == "done"
    return rollout


def check_whole(fleet: HubFixture, rollout: str) -> None:
    """The channel holds the rollout exactly while it is live, at its share and attempt; its history ends once."""
    row, held = row_of(fleet, rollout), entry(fleet).rollout
    assert (row.ended_at is None) == (row.state not in ENDED)
    if row.state in ENDED:
        assert held is None
        assert [name for name in history(fleet, rollout) if name in ENDED] == [row.state]
    else:
        assert held is not None and held.id == rollout
        stage = row.plan["stages"][row.progress["stage"]]
        assert (held.share_ppm, held.attempt) == (stage["share_ppm"], row.attempt)
    assert entry(fleet).release == (row.release if row.state == "finished" else row.from_release)


def check_order(fleet: HubFixture, rollout: str, name: str, said: str) -> None:
    """An order that was taken shows, one that was refused came after the end."""
    row = row_of(fleet, rollout)
    if said == "conflict":
        assert row.state in ENDED or name == "resume"
    elif name == "retry":
        assert row.attempt == 2 and "retried" in history(fleet, rollout)
    else:
        assert {"pause": "paused", "abort": "aborted", "resume": "resumed"}[name] in history(fleet, rollout)


@every_pair
def test_an_order_between_a_steps_reading_and_writing(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    rollout = ready(fleet, name, STEPS[step])
    said: list[Any] = []
    between(monkeypatch, Books, "gather", lambda: said.append(meanwhile.call(order, fleet, rollout, name)))
    RolloutEngine(fleet.hub).look()
    answer = said[0].result(DEADLINE_S)
    check_whole(fleet, rollout)
    check_order(fleet, rollout, name, answer)
    if name == "abort" and answer == "done":
        assert row_of(fleet, rollout).state == "aborted"
    if name == "pause" and answer == "done":
        assert row_of(fleet, rollout).state == "paused"
    RolloutEngine(fleet.hub).look()
    check_whole(fleet, rollout)


@every_pair
def test_a_step_between_an_orders_reading_and_writing(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    rollout = ready(fleet, name, STEPS[step])
    steps: list[Any] = []
    step_meanwhile = lambda: steps.append(meanwhile.call(RolloutEngine(fleet.hub).look))  # noqa: E731
    between(monkeypatch, orders, "plan_and_progress", step_meanwhile)
    answer = order(fleet, rollout, name)
    steps[0].result(DEADLINE_S)
    check_whole(fleet, rollout)
    check_order(fleet, rollout, name, answer)
    if name == "abort":
        assert row_of(fleet, rollout).state == "aborted"


@pytest.mark.parametrize("fleet", ["postgresql"], indirect=True)
@pytest.mark.parametrize("second", ["pause", "abort", "retry"])
@pytest.mark.parametrize("first", ["pause", "abort", "retry"])
def test_two_orders_at_once(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    rollout = ready(fleet, first, [])
    said: list[Any] = []
    order_meanwhile = lambda: said.append(meanwhile.call(order, fleet, rollout, second))  # noqa: E731
    between(monkeypatch, orders, "plan_and_progress", order_meanwhile)
    answers = {(0, first): order(fleet, rollout, first), (1, second): said[0].result(DEADLINE_S)}
    check_whole(fleet, rollout)
    taken = [name for (_, name), answer in answers.items() if answer == "done"]
    words = {"pause": "paused", "abort": "aborted", "retry": "retried"}
    assert history(fleet, rollout) == ["started", *(words[name] for name in taken)]
    assert ("abort" in taken) == (row_of(fleet, rollout).state == "aborted")
    assert row_of(fleet, rollout).attempt == 1 + taken.count("retry")


@pytest.mark.parametrize("fleet", ["postgresql"], indirect=True)
@pytest.mark.parametrize("step", STEPS)
def test_two_replicas_step_the_same_rollout(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    rollout = ready(fleet, "", STEPS[step])
    other: list[Any] = []
    between(monkeypatch, Books, "gather", lambda: other.append(meanwhile.call(RolloutEngine(fleet.hub).look)))
    RolloutEngine(fleet.hub).look()
    other[0].result(DEADLINE_S)
    check_whole(fleet, rollout)
    names = history(fleet, rollout)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("fleet", ["postgresql"], indirect=True)
def test_two_replicas_spend_a_rate_once(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(rate=Rate(per_minute=1.0))
    wanted = {"model": "digits", "release": 2, "channel": "stable", "stages": [100], "guard": GUARD}
    create.create_rollout(fleet.hub, actor="test", schedule=schedule, **wanted)
    other: list[Any] = []
    for count in (1, 2):
        between(monkeypatch, Books, "gather", lambda: other.append(meanwhile.call(RolloutEngine(fleet.hub).look)))
        RolloutEngine(fleet.hub).look()
        other[-1].result(DEADLINE_S)
        assert len(cohort(fleet)) == count
        fleet.clock.advance(60.0)


def test_an_abort_before_the_publication_is_what_is_published(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has stored its next stage and is about to publish it."""
    rollout = ready(fleet, "abort", ["good"])
    publish, said = fleet.hub.publisher.change_channel, []

    def late(*arguments: Any, **named: Any) -> Channel:
        if not said:
            said.append("…")
            said.append(order(fleet, rollout, "abort"))
        return publish(*arguments, **named)

    monkeypatch.setattr(fleet.hub.publisher, "change_channel", late)
    RolloutEngine(fleet.hub).look()
    assert said[1] == "done" and row_of(fleet, rollout).state == "aborted"
    check_whole(fleet, rollout)


def test_who_reads_that_a_rollout_has_ended_goes_on_at_once(fleet: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is stored and not published yet; a new rollout, or another default, need not wait for that."""
    ready(fleet, "", ["good", "good"])
    publish, said = fleet.hub.publisher.change_channel, []

    def late(*arguments: Any, **named: Any) -> Channel:
        if not said:
            said.append("…")
            said.append(begin(fleet, 3))
        return publish(*arguments, **named)

    monkeypatch.setattr(fleet.hub.publisher, "change_channel", late)
    RolloutEngine(fleet.hub).look()
    assert said[1] == "done" and entry(fleet).release == 2
    (rollout,) = live(fleet)
    check_whole(fleet, rollout)


def test_a_rollout_that_ended_does_not_hold_up_another_default(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash between the rollout's end and its publication."""
    ready(fleet, "", ["good", "good"])
    monkeypatch.setattr(engine, "carry_out", lambda *_, **__: None)
    RolloutEngine(fleet.hub).look()
    monkeypatch.undo()
    assert entry(fleet).rollout is not None and set_default(fleet) == "conflict"
    engine.settle(fleet.hub, "stable", actor="test")
    assert entry(fleet).rollout is None and set_default(fleet) == "done"


def begin(fleet: HubFixture, release: int = 2) -> str:
    return said_by(lambda: start(fleet, release))


def test_two_rollouts_created_at_once(fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    between(monkeypatch, create.machine, "start", lambda: said.append(meanwhile.call(begin, fleet, 3)))
    first = begin(fleet, 2)
    assert sorted([first, said[0].result(DEADLINE_S)]) == ["conflict", "done"]
    (rollout,) = live(fleet)
    check_whole(fleet, rollout)


def test_a_second_rollout_while_the_first_is_written(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    between(monkeypatch, create, "store", lambda: said.append(meanwhile.call(begin, fleet, 3)))
    assert begin(fleet, 2) == "done" and said[0].result(DEADLINE_S) == "conflict"
    (rollout,) = live(fleet)
    check_whole(fleet, rollout)


def said_by(call: Any) -> str:
    """`done`, or the error's kind."""
    try:
        call()
    except HubError as error:
        return error.code
    return "done"


def set_default(fleet: HubFixture) -> str:
    def change(channel: Channel) -> Channel:
        new = changed_entry(channel.models["digits"], EntryChanges(release=3), "stable/digits")
        return replace(channel, models={"digits": new})

    return said_by(lambda: fleet.hub.publisher.change_channel("stable", change, actor="test"))


def withdraw(fleet: HubFixture) -> str:
    return said_by(lambda: fleet.hub.publisher.withdraw("digits", 2, "bad", actor="test"))


def lift_floor(fleet: HubFixture) -> str:
    return said_by(lambda: fleet.hub.publisher.set_floor("digits", 3, actor="test"))


@pytest.mark.parametrize("hook", ["start", "store"])
@pytest.mark.parametrize("other", [set_default, withdraw, lift_floor])
def test_a_rollout_and_what_forbids_it(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, other: Any, hook: str
) -> None:
    """A default that changes, a release that is withdrawn or sinks below the floor: one of the two is refused."""
    if other is lift_floor:
        assert set_default(fleet) == "done"  # else the floor is refused for the default's sake
    said: list[Any] = []
    owner = create.machine if hook == "start" else create
    between(monkeypatch, owner, hook, lambda: said.append(meanwhile.call(other, fleet)))
    first = begin(fleet, 2)
    second = said[0].result(DEADLINE_S)
    assert sorted([first, second]) == ["conflict", "done"]
    assert len(live(fleet)) == (first == "done")
    if first == "done":
        check_whole(fleet, live(fleet)[0])
    else:
        assert entry(fleet).rollout is None


def test_the_database_itself_refuses_a_second_live_rollout(fleet: HubFixture) -> None:
    rollout = start(fleet)
    row = row_of(fleet, rollout)

    def copy(name: str, **changes: Any) -> None:
        with fleet.hub.session() as session:
            session.add(RolloutRow(**{**row.model_dump(), "id": name, **changes}))

    with pytest.raises(IntegrityError):
        copy("r-second")
    copy("r-ended", ended_at=1.0, state="aborted")
    copy("r-other-channel", channel="beta")
    copy("r-other-model", model="faces")


def test_one_broken_rollout_does_not_hold_up_the_others(fleet: HubFixture) -> None:
    rollout = ready(fleet, "", ["bad"])
    row = row_of(fleet, rollout)
    with fleet.hub.session() as session:
        for name, channel in (("r-0", "beta"), ("r-zzzzzzzz", "gamma")):  # before and after, in any order
            session.add(ChannelRow(name=channel, version=1, document=empty(channel), updated_at=0.0))
            session.add(RolloutRow(**{**row.model_dump(), "id": name, "channel": channel, "plan": {}}))
    RolloutEngine(fleet.hub).look()
    assert row_of(fleet, rollout).state == "halted"
    check_whole(fleet, rollout)


def empty(channel: str) -> bytes:
    return encode_channel(Channel(channel=channel, version=1))


def test_a_step_sees_an_input_in_its_devices_or_in_the_shared_ones_and_never_in_both(
    fleet: HubFixture, meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second device contradicts the first between the reading of the devices and that of what they dispute."""
    rollout = create.create_rollout(
        fleet.hub, model="digits", release=2, channel="stable", stages=[100], guard=GUARD, actor="test"
    ).id
    say(fleet, rollout, 1, DEVICES[0], dict.fromkeys(range(100), "both"))
    told: list[Any] = []

    def contradict() -> None:
        told.append(meanwhile.call(say, fleet, rollout, 1, DEVICES[1], dict.fromkeys(range(100), "only_old")))

    between(monkeypatch, Book, "_read", contradict)
    stepping = RolloutEngine(fleet.hub)
    for disputed in (0, 100):
        stepping.look()
        paired = row_of(fleet, rollout).progress["verdict"]["paired"]
        assert (paired["pairs"], paired["disputed"]) == (100, disputed)
        assert told[0].result(timeout=DEADLINE_S) is None
