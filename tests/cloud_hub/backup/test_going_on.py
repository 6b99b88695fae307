"""A restore that fails late starts nothing; one whose hub, keys or journal have gone on since takes that along."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.acts import TokenEnded
from cloud_hub.backup import manifest, restore
from cloud_hub.backup.make import make_backup
from cloud_hub.backup.restore import Restored
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.devices.changes import revoke_device
from cloud_hub.errors import InvalidError, NotFoundError, UnreachableError
from cloud_hub.identity.tokens import Grant, create_token
from cloud_hub.journal import Journal
from cloud_hub.objects import open_objects
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.trust import ceremony, publisher, repository
from tests.cloud_hub.backup.conftest import tree
from tests.cloud_hub.test_journal import Acts, enrolled, is_revoked, latest, position_of
from tests.support.hub import PASSPHRASE, HubFixture, make_hub

WORDS = b"a passphrase"


def went_on(tmp_path: Path) -> HubFixture:
    """A hub that was backed up before it revoked a device; it does not run."""
    made = make_hub(tmp_path)
    made.model()
    made.release()
    made.channel()
    enrolled(made, "cam-1")
    make_backup(made.hub.config, tmp_path / "b", passphrase=WORDS, now=made.clock())
    made.clock.advance(100)
    revoke_device(made.hub, "cam-1", actor="test")
    made.hub.engine.dispose()
    return made


def put_back(made: HubFixture, directory: Path, **changes: Any) -> Restored:
    arguments: dict[str, Any] = {
        "chosen": {},
        "passphrase": lambda: WORDS,
        "replace": True,
        "now": made.clock(),
    } | changes
    made.hub.engine.dispose()
    folder = arguments.pop("folder", made.hub.config.directory.parent / "b")
    given = {name: arguments.pop(name) for name in ("passphrase", "keys", "journal") if name in arguments}
    return restore.restore(restore.Source(folder, **given), directory, **arguments)


def opened(made: HubFixture, directory: Path) -> Hub:
    return open_hub(HubConfig.load(directory), clock=made.clock)


STEPS: list[tuple[Any, str]] = [
    (restore.placing, "place_keys"),
    (restore, "open_hub"),
    (restore, "replay"),
    (publisher.TufPublisher, "recover"),
    (publisher.TufPublisher, "rise"),
    (restore.key_files, "write_private"),
]


def test_what_fails_after_the_database_starts_nothing_and_loses_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = went_on(tmp_path)
    directory = made.hub.config.directory
    (directory / "keys" / "only-here").write_bytes(b"a key")
    real = restore.key_files.write_private

    def fails(*arguments: Any, **named: Any) -> Any:
        if isinstance(arguments[0], Path) and arguments[0].name != "hub.toml":
            return real(*arguments, **named)
        raise UnreachableError("the disk is gone")

    def stops(*arguments: Any, **named: Any) -> Any:
        raise UnreachableError("the disk is gone")

    for holder, name in STEPS:
        with monkeypatch.context() as patch, pytest.raises(UnreachableError):
            patch.setattr(holder, name, fails if name == "write_private" else stops)
            put_back(made, directory)
        assert not (directory / "hub.toml").exists(), f"nothing starts after {name}"
        assert any(path.read_bytes() == b"a key" for path in directory.rglob("only-here")), name
    put_back(made, directory)
    assert is_revoked(opened(made, directory), "cam-1") and not list(directory.glob("*.before"))
    assert any(path.read_bytes() == b"a key" for path in directory.rglob("only-here"))


def test_a_copy_of_the_journal_is_read_as_it_is_given(tmp_path: Path) -> None:
    made = went_on(tmp_path)
    copy = shutil.copytree(made.hub.config.directory / "journal", tmp_path / "else" / "journal")
    whole = restore.journals.read_copy(str(copy))
    assert len(whole) == 2 and restore.journals.read_copy(str(copy.parent)) == whole
    put_back(made, tmp_path / "again", journal=str(copy.rename(copy.with_name("hub-journal-copy"))))
    assert is_revoked(opened(made, tmp_path / "again"), "cam-1")


def test_a_copy_in_a_bucket_is_read_below_its_prefix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = open_objects("memory://")
    whole = [b'{"number":1,"previous":"0","at":1.0,"act":{"type":"token-ended","token":"x"}}', b"torn"]
    for place in ("hub/journal", "copies/of/it"):
        for number, data in enumerate(whole, 1):
            bucket.put(f"{place}/{number:012d}.json", data)
    asked: list[str] = []
    monkeypatch.setattr(restore.journals, "open_objects", lambda url: asked.append(url) or bucket)
    for url in ("s3://bucket/hub", "s3://bucket/hub/journal", "s3://bucket/copies/of/it/"):
        assert restore.journals.read_copy(url) == (whole[0],), "its last entry was being written"
    assert set(asked) == {"s3://bucket"}
    with pytest.raises(NotFoundError):
        restore.journals.read_copy("s3://bucket/other")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _damaged(folder: Path) -> None:
    sorted(folder.iterdir())[-1].write_bytes(b'{"number":1}')


def _older(folder: Path) -> None:
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()


REFUSED: list[tuple[Callable[[Path], None], type[Exception], str]] = [
    (shutil.rmtree, NotFoundError, "no copy"),
    (_empty, NotFoundError, "no entries"),
    (_damaged, InvalidError, "not an entry"),
    (_older, InvalidError, "ends at entry 1"),
]


def test_a_copy_that_says_nothing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    made = went_on(tmp_path)
    again = tmp_path / "b2"
    hub = opened(made, made.hub.config.directory)
    hub.publisher.reserve("digits", actor="test")
    make_backup(hub.config, again, passphrase=WORDS, now=made.clock())
    hub.engine.dispose()
    directory = hub.config.directory
    before = tree(directory)
    for number, (change, error, words) in enumerate(REFUSED):
        copy = shutil.copytree(directory / "journal", tmp_path / f"else-{number}" / "journal")
        change(copy)
        with pytest.raises(error, match=words):
            put_back(made, directory, folder=again, journal=str(copy))
    after = tree(directory)
    assert {n: d for n, d in after.items() if "hub." not in n} == {n: d for n, d in before.items() if "hub." not in n}
    assert after["hub.toml"] == before["hub.toml"]


def test_a_hub_that_leaves_its_bucket_takes_the_journal_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = went_on(tmp_path)
    copy = tuple(Journal(open_objects(str(made.hub.config.directory)), made.clock).copied())
    text = tmp_path / "b" / "hub.toml"
    content = 'objects = "s3://old/hub"\n' + text.read_text()
    monkeypatch.setattr(restore.checking, "check_backup", manifest.read)
    text.write_text(content)
    asked = []

    def read(url: str) -> tuple[bytes, ...]:
        asked.append(url)
        if url == "s3://old/hub":
            return copy
        return real(url)

    real = restore.journals.read_own
    monkeypatch.setattr(restore.journals, "read_own", read)
    put_back(made, tmp_path / "again", chosen={"objects": ""})
    assert "s3://old/hub" in asked and is_revoked(opened(made, tmp_path / "again"), "cam-1")

    def away(url: str) -> tuple[bytes, ...]:
        if url == "s3://old/hub":
            raise UnreachableError("gone")
        return real(url)

    monkeypatch.setattr(restore.journals, "read_own", away)
    with pytest.raises(UnreachableError) as refused:
        put_back(made, tmp_path / "other", chosen={"objects": ""})
    assert "--journal" in str(refused.value.hint) and not (tmp_path / "other").exists()
    put_back(made, tmp_path / "other", chosen={"objects": ""}, journal=str(tmp_path / "b" / "journal.jsonl"))


def test_nothing_is_published_before_what_was_forbidden_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = Acts(make_hub(tmp_path))
    made = acts.made
    make_backup(made.hub.config, tmp_path / "b", passphrase=WORDS, now=made.clock())
    for name in ("withdraw", "abort"):
        acts.do(name)
    directory = made.hub.config.directory
    seen, shown = [], directory / "objects" / "tuf" / "metadata" / "timestamp.json"
    before, real = shown.read_bytes(), publisher.TufPublisher.rise

    def rise(self: publisher.TufPublisher) -> None:
        seen.append(shown.read_bytes())
        real(self)

    monkeypatch.setattr(publisher.TufPublisher, "rise", rise)
    put_back(made, directory)
    hub = opened(made, directory)
    assert seen == [before] and shown.read_bytes() != before
    assert all(acts.happened(name, hub) for name in ("withdraw", "abort"))
    entries = len(list(hub.journal.stored()))
    hub.engine.dispose()
    put_back(made, directory)
    assert len(list(hub.journal.stored())) == entries, "what was read is not written again"


def test_a_hub_is_restored_in_place_after_a_renewal(tmp_path: Path) -> None:
    made = went_on(tmp_path)
    directory = made.hub.config.directory
    hub = opened(made, directory)
    ceremony.renew(hub.publisher.transactions, made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    hub.publisher.change_channel("stable", lambda channel: channel, actor="test")
    root = hub.objects.get("tuf/metadata/2.root.json").data
    targets = hub.objects.get("tuf/metadata/2.targets.json").data
    hub.engine.dispose()
    put_back(made, directory)
    again = opened(made, directory)
    assert (latest(again)["root"], latest(again)["targets"]) == (root, targets)
    again.publisher.change_channel("stable", lambda channel: channel, actor="test")
    ceremony.renew(again.publisher.transactions, made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    assert repository.version_of(latest(again)["targets"]) == 3


@pytest.mark.parametrize("name", ["rollout", "command"])
def test_a_hub_is_restored_in_place_after_a_rotation_with_its_newest_keys(tmp_path: Path, name: str) -> None:
    made = went_on(tmp_path)
    directory = made.hub.config.directory
    hub = opened(made, directory)
    ceremony.rotate(hub.publisher.transactions, name, directory / "keys", made.offline, PASSPHRASE)  # type: ignore[attr-defined]
    hub.engine.dispose()
    before = tree(directory / "keys")
    with pytest.raises(InvalidError, match="not this hub's") as refused:
        put_back(made, directory)
    assert "--keys" in str(refused.value.hint) and tree(directory / "keys") == before
    assert (directory / "hub.toml").exists()
    shutil.copytree(directory / "keys", tmp_path / "newest")
    put_back(made, directory, keys=tmp_path / "newest")
    opened(made, directory).publisher.change_channel("stable", lambda channel: channel, actor="test")


def test_what_a_journal_that_has_parted_forbids_is_taken_over(tmp_path: Path) -> None:
    """Restored without the newest journal, the hub went on; then the newest copy turns up."""
    made = went_on(tmp_path)
    copy = shutil.copytree(made.hub.config.directory / "journal", tmp_path / "else" / "journal")
    put_back(made, tmp_path / "again")
    hub = opened(made, tmp_path / "again")
    for _ in range(3):
        hub.publisher.reserve("digits", actor="test")
    assert not is_revoked(hub, "cam-1")
    make_backup(hub.config, tmp_path / "b2", passphrase=WORDS, now=made.clock())
    hub.engine.dispose()
    done = put_back(made, tmp_path / "last", folder=tmp_path / "b2", journal=str(copy))
    last = opened(made, tmp_path / "last")
    assert is_revoked(last, "cam-1") and any("parted" in problem for problem in done.problems)
    entries = len(list(last.journal.stored()))
    last.engine.dispose()
    put_back(made, tmp_path / "last", folder=tmp_path / "b2", journal=str(copy))
    assert len(list(last.journal.stored())) == entries, "once"


def test_a_commit_that_failed_makes_no_later_act_dearer(hub: HubFixture) -> None:
    hub.model()
    journal = hub.hub.journal
    journal.append(TokenEnded(token="x"), position_of(hub.hub))  # and its commit failed
    read: list[str] = []
    objects = journal._objects

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(objects, name)

        def get(self, key: str) -> Any:
            read.append(key)
            return objects.get(key)

    journal._objects = Counted()  # type: ignore[assignment]
    for _ in range(5):
        hub.hub.publisher.reserve("digits", actor="test")
    assert read == []


def test_claim_tokens_that_may_have_been_used_since_are_named(tmp_path: Path) -> None:
    made = make_hub(tmp_path)
    made.model()
    made.release()
    made.channel()
    enrolled(made, "cam-1")
    with made.hub.session() as session:
        tokens = [create_token(session, Grant(kind="claim", channel="stable"), now=made.clock()) for _ in range(2)]
    unused = sorted(token.text.split(".")[1] for token in tokens)
    made.token("operator", role="viewer")
    make_backup(made.hub.config, tmp_path / "b", passphrase=WORDS, now=made.clock())
    (said,) = put_back(made, tmp_path / "again").problems
    assert f"stand again: {', '.join(unused)};" in said and "fleet token revoke" in said
