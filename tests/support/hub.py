"""A real hub for tests: initialised in a directory, with a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from cloud_hub.app import create_app
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.identity.tokens import Grant, create_token
from cloud_hub.inference import async_queue
from cloud_hub.opening.bootstrap import initialise
from cloud_hub.store.tables import ChannelRow, Model
from tests.support.databases import migrated_sqlite
from tests.support.manifests import small_release

PASSPHRASE = b"test passphrase"
START = 1_800_000_000.0


@dataclass
class TestClock:
    """Time that stands still until it is moved."""

    __test__ = False
    now: float = START

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class HubFixture:
    """A hub, its clock, its directories and an admin's token."""

    hub: Hub
    clock: TestClock
    offline: Path
    admin_token: str
    _client: TestClient | None = field(default=None)

    @property
    def client(self) -> TestClient:
        """HTTP client without credentials, over the whole application (no services run)."""
        if self._client is None:
            self._client = TestClient(create_app(self.hub), raise_server_exceptions=False)
        return self._client

    def auth(self, token: str = "") -> dict[str, str]:
        """Headers of the admin, or of another token."""
        return {"Authorization": f"Bearer {token or self.admin_token}"}

    def token(self, kind: str = "operator", *, pin: str = "", **fields: Any) -> str:
        """A new token's text."""
        with self.hub.session() as session:
            return create_token(session, Grant(kind=kind, **fields), now=self.clock(), pin=pin).text

    def async_request(self, model: str = "digits") -> str:
        """The id of a request to a model that the admin has handed in and nobody has answered."""
        owner = f"operator:{self.admin_token.split('.')[1]}"
        return async_queue.submit(self.hub, async_queue.QueuedRequest(owner, model, 1, b"{}", {})).id

    def model(self, name: str = "digits") -> str:
        """Make a model."""
        with self.hub.session() as session:
            session.add(Model(name=name, created_at=self.clock()))
        return name

    def channel(self, name: str = "stable") -> str:
        """Make a channel that names no model yet, unless it is there."""
        with self.hub.reading() as session:
            known = session.get(ChannelRow, name)
        if known is None:
            self.hub.publisher.change_channel(name, lambda channel: channel, actor="test")
        return name

    def release(self, model: str = "digits", **changes: Any) -> int:
        """Publish a small valid release of `model`; returns its number."""
        manifest, blobs = small_release(**changes)
        for sha256, data in blobs.items():
            self.hub.objects.put_new(f"blobs/{sha256}", data)
        return self.hub.publisher.publish_release(model, manifest, actor="test").number


def make_hub(directory: Path, *, start: float = START, **document: Any) -> HubFixture:
    """A new hub below `directory`, made at `start`; `document` are values of hub.toml (`database=URL`, …)."""
    clock, offline = TestClock(start), directory / "offline"
    config = HubConfig.build(directory / "hub", document)
    if not config.database and not (config.directory / "hub.db").exists():
        config.directory.mkdir(parents=True, exist_ok=True)
        migrated_sqlite(config.directory / "hub.db")
    made = initialise(config, offline, PASSPHRASE, clock=clock)
    return HubFixture(made.hub, clock, offline, made.admin_token)
