"""A release that was forbidden stays forbidden: whatever is cut off, and however old the database is that a hub
starts with.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import Session, col, select

from cloud_hub.acts import DeviceRevoked, NumberTaken, TokenEnded
from cloud_hub.backup.make import make_backup
from cloud_hub.backup.restore import Restored, Source, restore
from cloud_hub.broker.revocation import revoked
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.devices.changes import revoke_device
from cloud_hub.errors import ConflictError, InvalidError, UnauthenticatedError, UnreachableError
from cloud_hub.identity.enroll import enroll
from cloud_hub.identity.token_orders import delete, revoke
from cloud_hub.identity.tokens import Grant, create_token, verify_token
from cloud_hub.journal import Journal, keep_position, position, write_act
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.opening.replaying import replay
from cloud_hub.ports import Objects
from cloud_hub.rollouts import orders
from cloud_hub.store.tables import ChannelRow, Device, Model, Release, RolloutRow, Setting, Token
from cloud_hub.trust import repository
from cloud_hub.trust.rows import latest_metadata, status_in_words
from fleet.protocol.channel import decode_channel
from fleet.protocol.codec import decode_json
from fleet.protocol.manifest import Floor
from fleet.protocol.messages import EnrollRequest
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture, make_hub
from tests.support.rollouts import make_fleet, start


class Killed(BaseException):
    """The process ends here."""


class Cut:
    """An object store that is cut off before or after its next new object."""

    def __init__(self, objects: Objects, when: str) -> None:
        self._objects, self._when = objects, when

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def put_new(self, key: str, data: bytes) -> bool:
        if self._when == "before":
            raise Killed
        self._objects.put_new(key, data)
        raise Killed


def enrolled(hub: HubFixture, name: str) -> tuple[str, EnrollRequest]:
    """A device that has come with a claim token; the token and what it asked with."""
    with hub.hub.session() as session:
        text = create_token(session, Grant(kind="claim", channel="stable"), now=hub.clock()).text
    _, token, secret, *_ = text.split(".")
    request = EnrollRequest(token=token, secret=secret, csr=DeviceKey().csr(), name=name)
    enroll(hub.hub, request)
    return token, request


def is_revoked(hub: Hub, name: str) -> bool:
    with hub.reading() as session:
        device = session.get(Device, name)
        return device is not None and device.revoked_at is not None


def floor(hub: Hub) -> Floor:
    """The signed floor of `digits`, as devices would read it."""
    with hub.reading() as session:
        targets = repository.read(latest_metadata(session)["models"]).signed.targets
    target = targets["models/digits/floor.json"]
    data = hub.objects.get(f"tuf/targets/models/digits/{target.hashes['sha256']}.floor.json").data
    return decode_json(data, Floor, limit=1 << 20, subject="floor")


def status(hub: Hub, number: int) -> str:
    with hub.reading() as session:
        return status_in_words(session, "digits", number)


def next_number(hub: Hub) -> int:
    with hub.reading() as session:
        model = session.get(Model, "digits")
        assert model is not None
        return model.next_release


def stands(hub: Hub, token: str) -> bool:
    with hub.reading() as session:
        row = session.get(Token, token)
        return row is not None and row.revoked_at is None


class Acts:
    """Every kind of act, and whether it has happened."""

    def __init__(self, made: HubFixture) -> None:
        self.made = made
        made.channel()
        make_fleet(made)
        enrolled(made, "cam-1")
        self.token = made.token("operator", role="viewer").split(".")[1]
        self.rollout = start(made)

    def do(self, name: str) -> None:
        hub = self.made.hub
        {
            "revoke": lambda: revoke_device(hub, "cam-1", actor="test"),
            "token": lambda: revoke(hub, self.token, actor="test"),
            "withdraw": lambda: hub.publisher.withdraw("digits", 3, "bad", actor="test"),
            "reserve": lambda: hub.publisher.reserve("digits", actor="test"),
            "abort": lambda: orders.apply_order(hub, self.rollout, "abort", "bad", "test"),
        }[name]()

    def happened(self, name: str, hub: Hub) -> bool:
        if name == "abort":
            with hub.reading() as session:
                row, channel = session.get(RolloutRow, self.rollout), session.get(ChannelRow, "stable")
                assert row is not None and channel is not None
                over = decode_channel(channel.document).models["digits"].rollout is None
                assert over or row.state != "aborted"
                return row.state == "aborted"
        return {
            "revoke": lambda: is_revoked(hub, "cam-1"),
            "token": lambda: not stands(hub, self.token),
            "withdraw": lambda: status(hub, 3) == "withdrawn" and 3 in floor(hub).withdrawn,
            "reserve": lambda: next_number(hub) == 5,
        }[name]()


NAMES = ("revoke", "token", "withdraw", "reserve", "abort")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_leaves_what_was_done_or_does_it_at_the_next_start(tmp_path: Path, name: str, when: str) -> None:
    acts = Acts(make_hub(tmp_path))
    hub = acts.made.hub
    before = len(list(hub.journal.stored()))
    whole = hub.journal._objects
    hub.journal._objects = Cut(whole, when)  # type: ignore[assignment]
    with pytest.raises(Killed):
        acts.do(name)
    hub.journal._objects = whole
    hub.engine.dispose()
    again = open_hub(hub.config, clock=acts.made.clock)
    assert not acts.happened(name, again), "nothing was committed"
    done = replay(again)
    assert acts.happened(name, again) == (when == "after")
    assert (done.entries, done.problems) == (int(when == "after"), ())
    once = latest(again)
    replay(again)
    assert replay(again).entries == 0 and acts.happened(name, again) == (when == "after")
    assert latest(again) == once or name == "abort"
    assert before < len(list(again.journal.stored())) or when == "before"


def latest(hub: Hub) -> dict[str, bytes]:
    with hub.reading() as session:
        return latest_metadata(session)


def test_what_cannot_be_written_down_is_not_done(hub: HubFixture) -> None:
    acts = Acts(hub)

    class Away(Cut):
        def put_new(self, key: str, data: bytes) -> bool:
            raise UnreachableError("object store: away")

    hub.hub.journal._objects = Away(hub.hub.journal._objects, "")  # type: ignore[assignment]
    for name in NAMES:
        with pytest.raises(UnreachableError):
            acts.do(name)
        assert not acts.happened(name, hub.hub)


def restored(made: HubFixture, folder: Path, directory: Path, **changes: Any) -> tuple[Restored, Hub]:
    made.hub.engine.dispose()
    arguments: dict[str, Any] = {
        "chosen": {},
        "keys": made.hub.config.keys_dir,
        "passphrase": lambda: b"",
        "replace": True,
        "now": made.clock(),
    } | changes
    given = {name: arguments.pop(name) for name in ("passphrase", "keys", "journal") if name in arguments}
    done = restore(Source(folder, **given), directory, **arguments)
    return done, open_hub(HubConfig.load(directory), clock=made.clock)


@pytest.mark.parametrize(
    ("hub_database", "survives"),
    [("sqlite", "in its place"), ("postgresql", "in its place"), ("sqlite", "as a copy")],
    indirect=["hub_database"],
)
def test_a_restore_revives_nothing_that_was_forbidden(hub_database: str, tmp_path: Path, survives: str) -> None:
    made = make_hub(tmp_path, database="" if survives == "as a copy" else hub_database)
    acts = Acts(made)
    hub = made.hub
    make_backup(hub.config, tmp_path / "b", passphrase=None, now=made.clock())

    made.clock.advance(3600)
    for name in NAMES:
        acts.do(name)
    hub.publisher.set_floor("digits", 1, actor="test")
    _, request = enrolled(made, "late")
    with hub.reading() as session:
        key = session.get(Device, "late")
        assert key is not None
        serial = key.certificate_serial
    revoke_device(hub, "late", actor="test")
    deleted = made.token("operator", role="viewer")
    made.release(seed=9)  # number 5
    delete(hub, deleted.split(".")[1], actor="test")
    made.model("gone")
    hub.publisher.reserve("gone", actor="test")

    directory, changes = hub.config.directory, {}
    if survives == "as a copy":
        shutil.copytree(directory / "journal", tmp_path / "elsewhere" / "journal")
        directory = tmp_path / "again"
        changes = {"journal": str(tmp_path / "elsewhere" / "journal"), "replace": False}
    done, again = restored(made, tmp_path / "b", directory, **changes)
    assert done.entries >= 9 and done.problems == ()
    for name in ("revoke", "token", "withdraw", "abort"):
        assert acts.happened(name, again), name
    assert next_number(again) == 6
    with again.reading() as session:
        kept_out = revoked(session, made.clock())
    assert is_revoked(again, "late") and "late" in kept_out.devices and serial in kept_out.serials
    with pytest.raises((ConflictError, UnauthenticatedError)):
        enroll(again, request)
    with again.session() as session, pytest.raises(UnauthenticatedError):
        verify_token(session, deleted, now=made.clock())
    with again.reading() as session:
        kept = session.get(Setting, "gone:model:gone")
        assert kept is not None and kept.value == "2"
        assert session.get(Release, ("digits", 5)) is None
    assert replay(again).entries <= 1


def test_a_rollout_that_was_live_waits_for_somebody_to_look(tmp_path: Path) -> None:
    made = make_hub(tmp_path)
    acts = Acts(made)
    make_backup(made.hub.config, tmp_path / "b", passphrase=None, now=made.clock())
    _, again = restored(made, tmp_path / "b", made.hub.config.directory)
    shown = orders.show_rollout(again, acts.rollout)
    assert shown.state == "paused" and "restored from a backup" in shown.reason


def test_a_channel_that_names_what_is_forbidden_is_said(tmp_path: Path) -> None:
    made = make_hub(tmp_path)
    acts = Acts(made)
    make_backup(made.hub.config, tmp_path / "b", passphrase=None, now=made.clock())
    acts.do("abort")
    made.hub.publisher.change_channel("stable", lambda c: msgspec.structs.replace(c, models={}), actor="test")
    made.hub.publisher.withdraw("digits", 1, "bad", actor="test")
    done, again = restored(made, tmp_path / "b", made.hub.config.directory)
    assert any(
        "channel 'stable' names release 1" in problem and "fleet channel set" in problem for problem in done.problems
    )
    assert 1 in floor(again).withdrawn, "devices refuse it"


# ---- the journal by itself -----------------------------------------------------------------------


@pytest.fixture
def writers(hub_database: str, tmp_path: Path) -> Iterator[HubFixture]:
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def test_two_that_write_at_once_make_one_chain(writers: HubFixture) -> None:
    """A replica with a journal object of its own writes between: no entry is lost, none has two bodies."""
    one = writers.hub
    other = Journal(one.journal._objects, writers.clock)
    writers.model()
    with one.session() as session:
        write_act(session, NumberTaken(model="digits", number=7))
        found, follows = other.append(TokenEnded(token="x"), position_of(one))
        assert follows and found.number == position_of(one).number + 1
    numbers = [number for number, _ in one.journal.stored()]
    assert numbers == list(range(1, len(numbers) + 1))
    done = replay(one)
    assert done.problems == () and done.entries == 2, "the database had not carried the other one out"
    with one.reading() as session:
        assert position(session) == one.journal.read(position_of(one)).tail


def position_of(hub: Hub) -> Any:
    with hub.reading() as session:
        return position(session)


def test_a_transaction_that_is_undone_writes_nothing(hub: HubFixture) -> None:
    before = list(hub.hub.journal.stored())
    with pytest.raises(RuntimeError), hub.hub.session() as session:
        write_act(session, TokenEnded(token="x"))
        raise RuntimeError
    with hub.hub.session() as session:
        write_act(session, TokenEnded(token="y"))
        with session.begin_nested():
            session.add(Setting(key="x", value="y"))
        assert list(hub.hub.journal.stored()) == before, "a savepoint is no commit"
    assert len(list(hub.hub.journal.stored())) == len(before) + 1


def torn(data: bytes) -> bytes | None:
    return data[: len(data) // 2]


def changed(data: bytes) -> bytes | None:
    return data.replace(b"token-3", b"token-9")


@pytest.mark.parametrize(
    ("damage", "number", "words"),
    [(torn, 3, "cannot be read"), (changed, 3, "does not follow"), (lambda data: None, 3, "are missing")],
)
def test_what_is_wrong_with_it_is_said_and_the_rest_is_carried_out(
    hub: HubFixture, damage: Callable[[bytes], bytes | None], number: int, words: str
) -> None:
    journal, at = hub.hub.journal, position_of(hub.hub)
    tokens = [hub.token("operator", role="viewer").split(".")[1] for _ in range(5)]
    tail = at
    for token in ("token-1", "token-2", "token-3", *tokens):
        tail, _ = journal.append(TokenEnded(token=token), tail)
    key = f"journal/{at.number + number:012d}.json"
    data = damage(journal._objects.get(key).data)
    journal._objects.delete(key) if data is None else journal._objects.put(key, data)
    done = replay(hub.hub)
    assert [words in problem for problem in done.problems].count(True) == 1
    with hub.hub.reading() as session:
        live = session.exec(select(Token.id).where(col(Token.revoked_at).is_(None))).all()
    assert not set(tokens) & set(live)
    assert replay(hub.hub) == (0, ())


def test_an_entry_that_a_power_cut_tore_gives_way(hub: HubFixture) -> None:
    journal, at = hub.hub.journal, position_of(hub.hub)
    journal._objects.put(f"journal/{at.number + 1:012d}.json", b"")
    found, follows = journal.append(TokenEnded(token="x"), at)
    assert follows and found.number == at.number + 1 and journal.read(at).tail == found
    lost = Journal(journal._objects, hub.clock)
    with hub.hub.session() as session:
        keep_position(session, found)
    lost._objects.delete(f"journal/{found.number:012d}.json")
    assert "put its copy back" in replay(hub.hub).problems[0]


def test_a_copy_fills_gaps_and_changes_nothing(hub: HubFixture, tmp_path: Path) -> None:
    journal, tail = hub.hub.journal, position_of(hub.hub)
    act = DeviceRevoked(device="d", key_fingerprint="f", public_key="p", certificates=(("0a", 5.0),))
    for _ in range(3):
        tail, _ = journal.append(act, tail)
    copy = list(journal.copied())
    before = dict(journal.stored())
    journal._objects.delete("journal/000000000002.json")
    assert journal.adopt(copy) == (1, False) and dict(journal.stored()) == before
    with pytest.raises(InvalidError):
        journal.adopt([b"rubbish\n"])
    with Session(hub.hub.engine) as session:
        assert position(session).number == 0 or position(session).number < tail.number
