"""The files that looks and kills leave behind do not grow."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from edge_agent.agent import Agent
from edge_agent.config import load_config
from edge_agent.errors import UnreachableError
from edge_agent.host.durable import sweep_drafts, write_durably
from tests.edge_agent.test_damaged_identity import install
from tests.edge_agent.update.test_attacks import TIMESTAMP, World
from tests.support.agent_process import enrolled

ONE, TWO = "models/digits/1.json", "models/digits/2.json"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.hub.release(seed=1)
    return made


def test_a_manifest_that_a_look_did_not_need_goes(world: World) -> None:
    targets = world.tuf / "targets"
    world.read(ONE)
    (targets / "models%2Fdigits%2F9.json.part").write_bytes(b"x")  # of a download that was cut
    assert len(names(targets)) == 2
    world.read(TWO)
    assert names(targets) == {"models%2Fdigits%2F2.json"}
    asked = len(world.between.answers)
    world.read(TWO)
    assert len(world.between.answers) == asked + 2  # timestamp, and the root that is not there: what is kept serves


def test_a_look_that_could_not_read_everything_removes_nothing(world: World) -> None:
    targets = world.tuf / "targets"
    world.read(ONE)
    (key,) = [i.key for i in world.hub.hub.objects.list("tuf/targets/models/digits") if i.key.endswith(".2.json")]
    world.between.lie(key, b"", status=503)
    with world.look() as trusted:
        with pytest.raises(UnreachableError):
            trusted.read(TWO, 1 << 20)
        assert trusted.read("models/digits/floor.json", 1 << 20) is not None
    world.between.lie(TIMESTAMP, b"", status=503)
    with pytest.raises(UnreachableError):
        world.read(TWO)
    assert names(targets) == {"models%2Fdigits%2F1.json", "models%2Fdigits%2Ffloor.json"}


def test_a_killed_write_of_metadata_leaves_nothing_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.read(ONE)
    for folder in (world.tuf, world.tuf / "root_history"):
        (folder / ".timestamp.json.0123abcd").write_bytes(b"half")
    before = names(world.tuf) | names(world.tuf / "root_history")
    world.read(ONE)
    assert names(world.tuf) | names(world.tuf / "root_history") == before - {".timestamp.json.0123abcd"}


def test_an_agent_that_starts_removes_drafts_and_nothing_else(tmp_path: Path) -> None:
    directory = enrolled(tmp_path / "device")
    install(directory)
    identity = directory / "identity"
    drafts = (directory / ".state.json.0123abcd", identity / ".device.key.89abcdef", identity / ".next.key.00000000")
    kept = (directory / ".hidden", directory / ".install.json.0123abcd", identity / ".note.0123ABCD")
    for path in (*drafts, *kept):
        path.write_bytes(b"half of a private key")
    before = names(identity)

    async def scenario() -> None:
        agent = Agent(load_config(directory))
        agent.cloud.close()
        agent.signer.close()
        agent.database.close()

    asyncio.run(scenario())
    assert not [path for path in drafts if path.exists()] and all(path.exists() for path in kept)
    assert names(identity) == before - {path.name for path in drafts}


def test_a_disk_that_refuses_keeps_its_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt  # and then nothing can be removed, as after a kill

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_durably(tmp_path / "file", b"x")
    (draft,) = names(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", dies_of_the_disk)
        sweep_drafts(tmp_path, tmp_path / "not there")
    assert names(tmp_path) == {draft}
    sweep_drafts(tmp_path, tmp_path / "not there")
    assert names(tmp_path) == set()


def dies_of_the_disk(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")
