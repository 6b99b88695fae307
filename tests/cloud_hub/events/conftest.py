"""A hub with a target on loopback whose receiver is real."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.context import Hub
from cloud_hub.events.delivery import Delivering, Spreading
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import record
from cloud_hub.events.targets import open_targets
from tests.support.https import Receiver, receiver
from tests.support.hub import HubFixture, make_hub

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def ops(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver."""
    with receiver(tmp_path / "ops") as made:
        yield made


def target(server: Receiver, **changes: Any) -> dict[str, Any]:
    """Settings of a target that reach a receiver; its secret lies beside its certificate."""
    secret = server.ca.with_name("secret")
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    return {"url": server.url, "secret_file": str(secret), "ca_file": str(server.ca), "allow_private": True, **changes}


@pytest.fixture
def told(tmp_path: Path, ops: Receiver) -> HubFixture:
    """A hub that tells `ops` of everything."""
    return make_hub(tmp_path, events={"targets": {"ops": target(ops)}})


def happens(fixture: HubFixture, kind: str = "job.failed", message: str = "it failed") -> str:
    """The id of an event that has happened."""
    with fixture.hub.session() as session:
        return record(session, Event(kind=kind, subject="j1", message=message), fixture.clock())


def delivering(hub: Hub, name: str = "ops", **parts: Any) -> Delivering:
    """The service of one target; all pauses have their middle length, and by default time passes by the hub's clock."""
    (found,) = [one for one in open_targets(hub.config.events, {}) if one.name == name]
    return Delivering(hub, found, chance=lambda: 0.5, **{"monotonic": hub.clock, **parts})


def deliver(fixture: HubFixture, name: str = "ops") -> int:
    """Spread what is new and try what is due; how many deliveries were tried."""
    Spreading(fixture.hub).look()
    return asyncio.run(delivering(fixture.hub, name).step())
