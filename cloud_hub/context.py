"""`Hub`: what every route, service and worker is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Engine
from sqlmodel import Session

from cloud_hub.config import HubConfig
from cloud_hub.journal import Journal
from cloud_hub.ports import Authority, Board, Clock, CommandKey, DeviceTokens, Objects, Publisher
from cloud_hub.store.engine import is_shared
from cloud_hub.store.tables import AuditEntry
from fleet.protocol.messages import MqttEndpoint


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The parts of a running hub. `opening.bootstrap.open_hub` builds it; tests use `tests.support.hub.make_hub`.

    Sessions are short: on SQLite a writing session holds the only write lock, so never call the
    publisher, the network or the object store while one is open.
    """

    config: HubConfig
    engine: Engine
    objects: Objects
    publisher: Publisher
    authority: Authority
    device_tokens: DeviceTokens
    command_key: CommandKey
    clock: Clock
    board: Board
    journal: Journal

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A writing transaction: committed at the end of the block, rolled back on an error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield self.journal.attach(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A reading transaction, which waits for no writer."""
        engine = self.engine.execution_options(edgeloop_read=True)
        with Session(engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A reading transaction of which all statements see one moment, that of the first: no transaction that ends
        meanwhile is half in what they read. On SQLite each one is so."""
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if is_shared(self.engine) else {}
        engine = self.engine.execution_options(edgeloop_read=True, **options)
        with Session(engine, expire_on_commit=False) as session:
            yield session

    def audit(
        self, session: Session, actor: str, action: str, subject: str, detail: dict[str, Any] | None = None
    ) -> None:
        """Write down who did what to what, in the caller's transaction."""
        session.add(AuditEntry(at=self.clock(), actor=actor, action=action, subject=subject, detail=detail or {}))

    def mqtt_endpoint(self, password: str = "") -> MqttEndpoint:
        """Return the broker's address for a device; `password` is used without TLS only."""
        return self._broker if self._broker.tls else replace(self._broker, password=password)

    @cached_property
    def _broker(self) -> MqttEndpoint:
        """Found out once: every device asks for it at every look, and it is a matter of files and names."""
        broker, told = self.config.broker.resolved(), self.config.addresses.broker_advertise
        return MqttEndpoint(host=told.host, port=told.port, tls=bool(broker.tls), prefix=broker.prefix)
