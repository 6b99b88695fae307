"""The metadata that a device shows to a hub that serves older ones: those that the hub has signed, and nothing that
is its own.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.errors import OlderMetadataError, UnreachableError
from edge_agent.update.worker import evidence
from fleet.protocol.codec import decode_msgpack, encode_json
from fleet.protocol.messages import HELD_LIMIT, Held, HeldAnswer
from tests.edge_agent.update.test_attacks import World


class Hub:
    """Answers one call, and keeps what it was sent."""

    def __init__(self, status: int = 200, data: bytes = b"", error: Exception | None = None) -> None:
        self._answer, self._error = SimpleNamespace(status=status, headers={}, data=data), error
        self.sent: list[tuple[str, str, bytes]] = []

    def request(self, method: str, path: str, body: bytes = b"", *_: Any, **__: Any) -> Any:
        self.sent.append((method, path, body))
        if self._error is not None:
            raise self._error
        return self._answer


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.hub.channel()
    with made.look() as trusted:
        for path in ("channels/stable.json", "models/digits/floor.json", "models/digits/1.json"):
            assert trusted.read(path, 1 << 20) is not None
    return made


def spool(path: Path, last: str) -> Path:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        database.execute("INSERT INTO facts VALUES ('last-command', ?)", (last,))
    database.close()
    return path


def test_it_shows_signed_files_the_channel_the_floors_and_the_last_command(world: World, tmp_path: Path) -> None:
    hub = Hub(data=encode_json(HeldAnswer(lifted=True)))
    assert evidence.show(hub, world.tuf, spool(tmp_path / "spool.db", '{"é": 1}'))  # type: ignore[arg-type]
    ((method, path, body),) = hub.sent
    sent = decode_msgpack(body, Held, limit=HELD_LIMIT, subject="held")
    assert (method, path) == ("POST", "/device/held")
    for role in ("timestamp", "snapshot", "targets", "models", "channels"):
        assert getattr(sent, role) == (world.tuf / f"{role}.json").read_bytes()
    assert sent.roots == (world.root,) and sent.command == '{"é": 1}'.encode()
    assert set(sent.documents) == {"channels/stable.json", "models/digits/floor.json"}


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(b"rubbish" * 1000)
    assert evidence.gather(tmp_path / "tuf", tmp_path / "spool.db") == Held()


def test_a_hub_that_does_not_take_it_changes_nothing(world: World) -> None:
    assert evidence.show(Hub(data=encode_json(HeldAnswer(lifted=False))), world.tuf)  # type: ignore[arg-type]
    for hub in (Hub(404), Hub(503), Hub(data=b"rubbish"), Hub(error=UnreachableError("away"))):
        assert not evidence.show(hub, world.tuf)  # type: ignore[arg-type]


def test_more_than_the_hub_takes_is_not_sent(world: World) -> None:
    (world.tuf / "models.json").write_bytes(b"x" * HELD_LIMIT)
    hub = Hub()
    assert not evidence.show(hub, world.tuf) and hub.sent == []  # type: ignore[arg-type]


def test_older_metadata_is_told_apart_from_wrong_one(world: World) -> None:
    files = {info.key: world.data(info.key) for info in world.hub.hub.objects.list("tuf/metadata")}
    world.hub.release(seed=1)
    assert world.read() is not None
    world.between.lie("tuf/metadata/timestamp.json", files["tuf/metadata/timestamp.json"])
    with pytest.raises(OlderMetadataError) as raised:
        world.read()
    assert raised.value.reason == "untrusted-metadata" and "restored from a backup" in raised.value.hint
