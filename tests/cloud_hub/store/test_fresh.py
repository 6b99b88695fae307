"""The copy that is kept of the database is bounded, and no change is missed; replicas are two engines on one
database.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, select

from cloud_hub.errors import BusyError, NotFoundError, UnauthenticatedError
from cloud_hub.identity.tokens import Grant, create_token, revoke_token
from cloud_hub.store import access_version, fresh
from cloud_hub.store.engine import make_engine
from cloud_hub.store.fresh import MOST_S, SOON_S, Cache, Freshness
from cloud_hub.store.migrate import upgrade
from cloud_hub.store.tables import Device, Model, Release, Token


@pytest.fixture
def database(database_url: str) -> Iterator[tuple[str, Engine]]:
    engine = make_engine(database_url)
    upgrade(engine)
    yield database_url, engine
    engine.dispose()


def number(engine: Engine) -> int | None:
    with Session(engine) as session:
        return access_version.read(session)


def risen(engine: Engine, change: Callable[[Session], object]) -> int:
    before = number(engine)
    with Session(engine) as session, session.begin():
        change(session)
    after = number(engine)
    assert before is not None and after is not None
    return after - before


def device(**fields: object) -> Device:
    empty = {name: "" for name in ("public_key", "key_fingerprint", "certificate", "certificate_serial")}
    return Device(id="cam-1", channel="stable", certificate_expires_at=9.0, enrolled_at=1.0, **empty, **fields)


def test_the_newest_migration_leaves_every_trigger_in_its_place(database: tuple[str, Engine]) -> None:
    _, engine = database
    sqlite = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    postgres = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(sqlite if engine.dialect.name == "sqlite" else postgres)
        found = {row[0] for row in rows}
    events = ("insert", "update", "delete")
    access = {f"access_{table}_{event}" for table in ("token", "device", "release") for event in events}
    tables = ("device", "devicemodel", "pairevidence", "measured")
    changes = {f"note_{table}_{event}" for table in tables for event in events} | {"note_device_heard"}
    assert found == access | changes


def test_the_number_rises_with_what_matters_and_with_nothing_else(database: tuple[str, Engine]) -> None:
    _, engine = database
    assert risen(engine, lambda s: create_token(s, Grant(kind="operator", role="admin"), now=1.0)) == 1
    with Session(engine) as session:
        token = session.exec(select(Token.id)).one()
    assert risen(engine, lambda s: create_token(s, Grant(kind="claim", channel="stable"), now=1.0)) == 0
    assert risen(engine, lambda s: setattr(s.get(Token, token), "note", "mine")) == 0
    assert risen(engine, lambda s: setattr(s.get(Token, token), "rate_per_s", 5.0)) == 1
    assert risen(engine, lambda s: revoke_token(s, token, now=2.0)) == 1
    assert risen(engine, lambda s: s.add(device())) == 0
    assert risen(engine, lambda s: setattr(s.get(Device, "cam-1"), "online", True)) == 0
    assert risen(engine, lambda s: setattr(s.get(Device, "cam-1"), "revoked_at", 3.0)) == 1
    assert risen(engine, lambda s: s.delete(s.get(Device, "cam-1"))) == 1
    assert risen(engine, lambda s: s.add(Model(name="m", created_at=1.0))) == 0
    assert risen(engine, lambda s: s.add(Release(model="m", number=1, status="reserved", created_at=1.0))) == 1
    assert risen(engine, lambda s: setattr(s.get(Release, ("m", 1)), "status", "withdrawn")) == 1


@pytest.mark.timeout(20)  # what goes wrong here is a loop that never gives way
def test_who_comes_in_the_step_in_which_a_look_ends_waits_for_the_next_one() -> None:
    """The look that ends began before the last commit, so that another one is due."""
    looks: list[int] = []

    async def main() -> None:
        freshness = Freshness(lambda: looks.append(0) or 1, now=lambda: 0.0)
        assert not freshness.holds()  # a look begins
        (look,) = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)  # it has noted the commits that it will have seen
        freshness.expire()
        while not look.done():
            await asyncio.sleep(0)
        await freshness.check()
        assert freshness.holds() and len(looks) == 2
        freshness.close()

    asyncio.run(main())


def test_another_replicas_revocation_is_seen_in_time_and_ones_own_at_once(database: tuple[str, Engine]) -> None:
    url, here = database
    there = make_engine(url)
    with Session(here) as session, session.begin():
        session.add(Model(name="m", created_at=1.0))
        session.add(Release(model="m", number=1, status="published", created_at=1.0))
    time = [0.0]
    freshness = Freshness(lambda: number(here), now=lambda: time[0])
    freshness.watch(here)
    cache: Cache[str, str] = Cache(freshness, most=9)

    def load() -> str:
        with Session(here) as session:
            row = session.get(Release, ("m", 1))
            assert row is not None
            return row.status

    def write(engine: Engine, status: str) -> None:
        with Session(engine) as session, session.begin():
            session.get(Release, ("m", 1)).status = status  # type: ignore[union-attr]

    async def scenario() -> None:
        assert await cache.get("m", load) == "published"
        write(there, "withdrawn")
        assert cache.find("m") == "published"  # nobody has told this replica yet
        time[0] += MOST_S + 0.01
        assert cache.find("m") is None  # too old to be used unseen
        assert await cache.get("m", load) == "withdrawn"
        await asyncio.to_thread(write, here, "published")
        assert cache.find("m") is None
        assert await cache.get("m", load) == "published"

    asyncio.run(scenario())
    freshness.close()
    there.dispose()


def test_a_value_read_before_a_change_and_kept_after_it_is_not_used(database: tuple[str, Engine]) -> None:
    """The race: a slow read holds the old row while another replica commits the new one."""
    version, rows = [1], ["old"]
    reading, go = threading.Event(), threading.Event()
    freshness = Freshness(lambda: version[0], now=lambda: time[0])
    time = [0.0]
    cache: Cache[str, str] = Cache(freshness, most=9)

    def slow() -> str:
        found = rows[0]
        reading.set()
        assert go.wait(10)
        return found

    async def scenario() -> None:
        first = asyncio.create_task(cache.get("k", slow))
        await asyncio.to_thread(reading.wait, 10)
        version[0], rows[0] = 2, "new"
        freshness.expire()
        second = asyncio.create_task(cache.get("k", lambda: rows[0]))
        assert await second == "new"  # asked after the change: does not wait for what began before it
        go.set()
        assert await first == "old"  # was asked before the change
        assert cache.find("k") == "new"

    asyncio.run(scenario())
    freshness.close()


def test_many_load_once_and_look_beside_the_request() -> None:
    time, looks, loads = [0.0], [], []
    freshness = Freshness(lambda: looks.append(1) or 7, now=lambda: time[0])  # type: ignore[func-returns-value]
    cache: Cache[int, str] = Cache(freshness, most=2)

    async def scenario() -> None:
        found = await asyncio.gather(*(cache.get(1, lambda: loads.append(1) or "v") for _ in range(50)))  # type: ignore[func-returns-value]
        assert (set(found), len(loads), len(looks)) == ({"v"}, 1, 1)
        time[0] += SOON_S + 0.01
        assert cache.find(1) == "v" and cache.find(1) == "v"  # used at once; one look has begun
        await freshness.check()
        assert freshness._checking is not None
        await freshness._checking
        assert len(looks) == 2
        for key in (2, 3):
            await cache.get(key, lambda: "w")
        assert (cache.find(1), cache.find(3), len(cache)) == (None, "w", 2)

    asyncio.run(scenario())
    freshness.close()


def test_refusals_are_kept_apart_and_an_outage_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    freshness = Freshness(lambda: 1, now=lambda: 0.0)
    cache: Cache[str, str] = Cache(freshness, most=3)
    asked: list[str] = []

    def refuse(key: str) -> str:
        asked.append(key)
        raise UnauthenticatedError("no", subject="token", hint="ask")

    async def scenario() -> None:
        await cache.get("mine", lambda: "me")
        for n in range(20):
            with pytest.raises(UnauthenticatedError):
                await cache.get(f"guess-{n}", lambda n=n: refuse(f"guess-{n}"))  # type: ignore[misc]
        assert cache.find("mine") == "me" and len(cache) == 4
        with pytest.raises(UnauthenticatedError, match="no") as caught:
            cache.find("guess-19")
        assert (caught.value.hint, len(asked)) == ("ask", 20)
        for _ in range(2):
            with pytest.raises(BusyError):
                await cache.get("x", lambda: (_ for _ in ()).throw(BusyError("later")))
        assert await cache.get("x", lambda: "now") == "now"
        monkeypatch.setattr(fresh, "WAITING", 0)
        with pytest.raises(BusyError):
            await cache.get("y", lambda: "z")

    asyncio.run(scenario())
    freshness.close()


def test_without_the_database_nothing_kept_is_used_for_longer() -> None:
    time, down = [0.0], [False]

    def read() -> int:
        if down[0]:
            raise OperationalError("SELECT", {}, Exception("gone"))
        return 1

    freshness = Freshness(read, now=lambda: time[0])
    cache: Cache[str, str] = Cache(freshness, most=3)

    async def scenario() -> None:
        await cache.get("k", lambda: "v")
        down[0] = True
        time[0] = SOON_S + 0.01
        assert cache.find("k") == "v"
        time[0] = MOST_S + 0.01
        assert cache.find("k") is None
        for _ in range(2):
            with pytest.raises(OperationalError):
                await cache.get("k", lambda: "v")
        down[0] = False
        await freshness.check()
        assert cache.find("k") == "v"  # nothing has changed

    asyncio.run(scenario())
    freshness.close()


def test_a_number_that_is_missing_keeps_nothing_for_longer_than_a_look() -> None:
    time = [0.0]
    freshness = Freshness(lambda: None, now=lambda: time[0])
    cache: Cache[str, int] = Cache(freshness, most=3)
    values = iter(range(9))

    async def scenario() -> None:
        assert await cache.get("k", lambda: next(values)) == 0
        assert await cache.get("k", lambda: next(values)) == 0
        time[0] = MOST_S + 0.01
        assert await cache.get("k", lambda: next(values)) == 1

    asyncio.run(scenario())
    freshness.close()


def test_not_found_is_a_refusal_that_a_change_ends() -> None:
    version = [1]
    freshness = Freshness(lambda: version[0], now=lambda: 0.0)
    cache: Cache[str, str] = Cache(freshness, most=3)

    def missing() -> str:
        raise NotFoundError("no such release")

    async def scenario() -> None:
        with pytest.raises(NotFoundError):
            await cache.get("k", missing)
        with pytest.raises(NotFoundError):
            cache.find("k")
        version[0] = 2
        freshness.expire()
        assert await cache.get("k", lambda: "published") == "published"

    asyncio.run(scenario())
    freshness.close()
