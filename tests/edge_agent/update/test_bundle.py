"""A bundle from a real hub, carried to a device that has no network: installed, or refused while the old one serves."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from cloud_hub.trust import checks
from edge_agent import client
from edge_agent.host.lock import agent_lock
from edge_agent.main import main
from edge_agent.update.disk.state import read_state
from edge_agent.update.download.folder import FolderHub
from fleet.client import Client
from fleet.client.bundle import Bundler
from fleet.client.transport import HttpTransport
from fleet.errors import ConflictError, FailedError, NotFoundError
from fleet.protocol.channel import Channel, Fetching, ModelEntry
from fleet.protocol.messages import AgentReport
from tests.support.agent_process import running
from tests.support.device import Device, claim, follow, listening, publish
from tests.support.hub import HubFixture, make_hub

Bundle = Callable[[str], Path]


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    made = make_hub(tmp_path, start=time.time())
    follow(made, publish(made, tmp_path))
    return made


@pytest.fixture
def directory(hub: HubFixture, tmp_path: Path) -> Path:
    """An enrolled device; the hub that it knows is gone."""
    with listening(hub) as url:
        directory = Device(url, claim(hub), tmp_path / "agent").config.dir
    (directory / "agent.toml").write_text("disk_reserve_bytes = 0\n")
    return directory


@pytest.fixture
def bundle(hub: HubFixture, tmp_path: Path) -> Bundle:
    """Makes a bundle of the hub's state of now, with a mirror's credential."""

    def make(name: str, **options) -> Path:
        with listening(hub) as url:
            reader = Client(HttpTransport(url), hub.token("mirror"))
            Bundler(reader.static, reader.static_piece, tmp_path / name).write("stable", **options)
        return tmp_path / name

    return make


def install(folder: Path, directory: Path, capsys) -> tuple[int, dict]:
    code = main(["install", str(folder), "--dir", str(directory), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {"error": captured.err}


def reported(directory: Path) -> list[str]:
    """The problems that wait for the hub."""
    records = sqlite3.connect(directory / "spool.db").execute("SELECT body FROM records WHERE kind = 'agent'")
    return [msgspec.msgpack.decode(body, type=AgentReport).problem for (body,) in records]


def active(directory: Path, model: str = "tiny") -> int | None:
    held = read_state(directory).models[model].active
    return held.release if held else None


def test_installing_again_and_again_is_no_start_of_the_release_on_probation(directory, bundle, capsys) -> None:
    folder = bundle("one")
    for _ in range(5):  # more than the starts that a probation allows
        assert install(folder, directory, capsys)[0] == 0
    state = read_state(directory).models["tiny"]
    assert (state.state, state.starts) == ("probation", 0)


def test_a_bundle_is_installed_without_network_and_serves(directory, bundle, capsys) -> None:
    code, outcome = install(bundle("one"), directory, capsys)
    assert (code, outcome["by"]) == (0, "command"), outcome
    assert [(m["model"], m["active"], m["state"]) for m in outcome["models"]] == [("tiny", 1, "probation")]
    assert (directory / "time-floor").exists()  # the same clock rules as from the network
    with running(directory, "--port", "0") as (_, address):
        answer = client.infer("tiny", np.array([[9, 0, 0, 0]], np.float32), url=address)
    assert (answer.parameters["served_by"], answer.model_version) == ("edge", "1")


def test_a_running_agent_installs_when_it_is_asked(directory, hub, bundle, tmp_path, capsys) -> None:
    with running(directory, "--port", "0") as (_, address):
        code, outcome = install(bundle("one"), directory, capsys)
        assert (code, outcome["by"]) == (0, "agent"), outcome
        answer = client.infer("tiny", np.array([[9, 0, 0, 0]], np.float32), url=address)
        assert (answer.parameters["served_by"], answer.model_version) == ("edge", "1")
        assert main(["install", str(tmp_path / "one"), "--dir", str(directory)]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"handed over to the agent that runs in {directory}\n") and "is installed" in said
        (tmp_path / "one" / "metadata" / "timestamp.json").write_bytes(b"{}")
        code, outcome = install(tmp_path / "one", directory, capsys)
        assert (code, outcome["reason"]) == (1, "untrusted-metadata") and outcome["hint"]
        seen = client.status(directory)
        assert seen["models"]["tiny"]["serving"] == 1
        assert (seen["bundle"]["done"], seen["bundle"]["reason"]) == (False, "untrusted-metadata")
    assert "untrusted-metadata" in reported(directory)
    assert not (directory / "install.json").exists()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _tamper_blobs(folder: Path) -> None:
    for path in (folder / "blobs").iterdir():
        _flip(path)


def _tamper_targets(folder: Path) -> None:
    for path in (folder / "metadata").glob("*.models.json"):
        _flip(path)


def _lose_blobs(folder: Path) -> None:
    for path in (folder / "blobs").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "reasons"),
    [
        (_tamper_blobs, {"hash-mismatch"}),
        (_tamper_targets, {"untrusted-metadata", "fetch-failed", "too-large"}),
        (_lose_blobs, {"not-found"}),
    ],
)
def test_a_bundle_that_was_changed_is_refused(directory, hub, bundle, tmp_path, capsys, harm, reasons) -> None:
    install(bundle("one"), directory, capsys)
    commit(directory)
    follow(hub, publish(hub, tmp_path, seed=2))
    folder = bundle("two")
    harm(folder)
    code, outcome = install(folder, directory, capsys)
    said = [m for m in (*outcome["models"], outcome) if m["reason"]]
    assert code == 1 and said and {m["reason"] for m in said} <= reasons, outcome
    assert all(m["detail"] and "fleet release bundle --channel stable" in m["hint"] for m in said), said
    assert active(directory) == 1
    seen = client.status(directory)
    assert seen["bundle"]["folder"] == str(folder) and seen["bundle"]["reason"] in reasons
    assert main(["status", "--dir", str(directory)]) == 0
    assert f"latest bundle: {folder}, 2" in capsys.readouterr().out
    if harm is _tamper_targets:  # the bundle as such is good
        seen = seen["models"]["tiny"]
        assert seen["reason"] in reasons and "release bundle" in seen["hint"]
    else:
        assert reported(directory)[-1] in reasons
        assert seen["problem"] in reasons and f"bundle {folder}: " in seen["hint"] and "release bundle" in seen["hint"]
    code, outcome = install(bundle("whole"), directory, capsys)
    assert code == 0 and active(directory) == 2, outcome
    assert client.status(directory)["problem"] == "" and client.status(directory)["bundle"]["done"] is True


def commit(directory: Path, model: str = "tiny") -> None:
    """End the probation, as time does."""
    from edge_agent.update.disk.state import StateFile

    file = StateFile(directory)
    state = file.model(model)
    file.put_model(model, replace(state, state="committed"))


def test_neither_window_nor_budget_holds_up_what_somebody_asks_for(directory, hub, bundle, capsys) -> None:
    from datetime import UTC, datetime, timedelta

    later = datetime.now(UTC) + timedelta(hours=6)
    window = f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M}"
    changed = lambda c: replace(c, fetching=Fetching(window=window, bytes_per_day=1))  # noqa: E731
    hub.hub.publisher.change_channel("stable", changed, actor="test")
    code, outcome = install(bundle("one"), directory, capsys)
    assert code == 0 and active(directory) == 1, outcome


def test_an_expired_bundle_asks_for_a_new_one(tmp_path, capsys) -> None:
    hub = make_hub(tmp_path, start=time.time() - 8 * 86400)  # a hub's timestamp lasts seven days
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        directory = Device(url, claim(hub), tmp_path / "agent").config.dir
        reader = Client(HttpTransport(url), hub.token("mirror"))
        Bundler(reader.static, reader.static_piece, tmp_path / "old").write("stable")
    (directory / "agent.toml").write_text("disk_reserve_bytes = 0\n")
    code, outcome = install(tmp_path / "old", directory, capsys)
    (said,) = outcome["models"]
    assert (code, said["reason"]) == (1, "expired-metadata")
    for text in (said["hint"], said["detail"], client.status(directory)["hint"]):
        assert "make a new bundle" in text and "cloud-hub" not in text


def both(hub: HubFixture, **releases: int) -> None:
    models = {model: ModelEntry(release=number) for model, number in releases.items()}
    changed = lambda c: Channel(channel="stable", version=c.version, models=models)  # noqa: E731
    hub.hub.publisher.change_channel("stable", changed, actor="test")


def test_a_bundle_of_one_model_is_done_when_that_is_and_lets_the_others_be(
    directory, hub, bundle, tmp_path, capsys
) -> None:
    both(hub, tiny=1, other=publish(hub, tmp_path / "other", model="other"))
    code, outcome = install(bundle("tiny", models=("tiny",)), directory, capsys)
    assert code == 0 and [m["model"] for m in outcome["models"]] == ["tiny"] and outcome["left_out"] == ["other"]
    assert active(directory) == 1 and "other" not in read_state(directory).models  # no error is laid at its door
    assert main(["install", str(tmp_path / "tiny"), "--dir", str(directory)]) == 0
    assert "model other is not in this bundle, and stays as it is" in capsys.readouterr().out

    (tmp_path / "tiny" / "bundle.json").unlink()  # nobody says that it was left out on purpose
    code, outcome = install(tmp_path / "tiny", directory, capsys)
    assert (code, {m["model"]: m["reason"] for m in outcome["models"]}) == (1, {"tiny": "", "other": "not-found"})


def test_a_label_permits_nothing_and_hides_no_refusal(directory, hub, bundle, tmp_path, capsys) -> None:
    import os

    folder = bundle("one")
    label = folder / "bundle.json"
    label.write_text('{"channel": "stable", "models": []}')
    code, outcome = install(folder, directory, capsys)
    assert (code, outcome["reason"]) == (1, "no-model")
    for path in (folder / "metadata").glob("*.models.json"):
        _flip(path)
    assert install(folder, directory, capsys)[0] == 1
    for harm in (lambda: label.write_text("{"), label.unlink, lambda: os.mkfifo(label)):
        harm()
        code, outcome = install(bundle(f"new{time.monotonic_ns()}"), directory, capsys)
        assert code == 0, outcome


def test_a_return_to_what_is_held_is_followed_in_a_bundle_of_another_model(
    directory, hub, bundle, tmp_path, capsys
) -> None:
    first, second = (publish(hub, tmp_path / f"o{seed}", model="other", seed=seed) for seed in (3, 4))
    for number in (first, second):
        both(hub, tiny=1, other=number)
        assert install(bundle(f"all{number}"), directory, capsys)[0] == 0
        commit(directory, "other")
        commit(directory)
    assert active(directory, "other") == second
    both(hub, tiny=1, other=first)
    hub.hub.publisher.withdraw("other", second, "wrong labels", actor="test")
    code, outcome = install(bundle("halt", models=("tiny",)), directory, capsys)
    assert code == 0 and outcome["left_out"] == [] and active(directory, "other") == first, outcome


def test_an_older_bundle_is_a_rollback_and_refused(directory, hub, bundle, tmp_path, capsys) -> None:
    old = bundle("old")
    follow(hub, publish(hub, tmp_path, seed=2))
    assert install(bundle("new"), directory, capsys)[0] == 0 and active(directory) == 2
    code, outcome = install(old, directory, capsys)
    assert (code, outcome["reason"]) == (1, "untrusted-metadata")
    assert "old copy" in outcome["hint"] and active(directory) == 2


def _raise_floor(hub: HubFixture, number: int) -> None:
    hub.hub.publisher.set_floor("tiny", number + 1, actor="test")


def _withdraw(hub: HubFixture, number: int) -> None:
    hub.hub.publisher.withdraw("tiny", number, "wrong labels", actor="test")


@pytest.mark.parametrize(("forbid", "reason"), [(_raise_floor, "below-floor"), (_withdraw, "withdrawn")])
def test_a_forbidden_release_is_refused(directory, hub, bundle, tmp_path, capsys, monkeypatch, forbid, reason) -> None:
    install(bundle("one"), directory, capsys)
    commit(directory)
    number = publish(hub, tmp_path, seed=2)
    follow(hub, number)
    monkeypatch.setattr(checks, "named_releases", lambda channel: set())  # a hub that forgets its own rule
    forbid(hub, number)
    code, outcome = install(bundle("two"), directory, capsys)
    (said,) = outcome["models"]
    assert (code, said["wanted"], said["active"], said["reason"]) == (1, number, 1, reason) and said["hint"]
    assert active(directory) == 1 and not list((directory / "blobs").glob("*.part"))


def test_what_is_no_bundle_and_what_is_no_agent_is_said(directory, bundle, tmp_path, capsys) -> None:
    code, outcome = install(tmp_path, directory, capsys)
    assert (code, "try: make one" in outcome["error"]) == (3, True)
    with agent_lock(directory):  # the same when an agent runs
        assert install(tmp_path, directory, capsys) == (3, outcome)
    assert main(["install", str(bundle("one")), "--dir", str(tmp_path / "nobody")]) == 2
    assert "edge-agent enroll" in capsys.readouterr().err


def test_a_bundle_is_written_once_and_whole(bundle, hub, tmp_path) -> None:
    folder = bundle("one")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConflictError):
        bundle("one")
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(NotFoundError, match="no model cats"):
        bundle("cats", models=("cats",))
    for path in (hub.hub.config.directory / "objects" / "blobs").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            _flip(path)
    with pytest.raises(FailedError, match="another hash"):
        bundle("damaged")
    assert not (tmp_path / "damaged").exists() and not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    "path", ["/blobs/../../secret", "/tuf/metadata/../secret.json", "/tuf/targets/../../secret.json", "/device/me", ""]
)
def test_only_static_names_are_opened(tmp_path, path) -> None:
    (tmp_path / "secret.json").write_text("x")
    with FolderHub(tmp_path / "bundle").stream("GET", path) as answer:
        assert (answer.status, answer.read1(10)) == (404, b"")


def test_a_link_or_a_pipe_in_a_bundle_is_not_followed(tmp_path) -> None:
    import os

    (tmp_path / "blobs").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "blobs" / ("a" * 64)).symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "blobs" / ("b" * 64))
    hub = FolderHub(tmp_path)
    with pytest.raises(Exception, match="cannot be read"), hub.stream("GET", "/blobs/" + "a" * 64):
        pass
    with hub.stream("GET", "/blobs/" + "b" * 64) as answer:
        assert answer.status == 404


def test_a_range_is_answered(tmp_path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ("a" * 64)).write_bytes(b"0123456789")
    with FolderHub(tmp_path).stream("GET", "/blobs/" + "a" * 64, headers={"Range": "bytes=4-"}) as answer:
        assert (answer.status, answer.headers["Content-Range"], answer.read1(99)) == (206, "bytes 4-9/10", b"456789")
