"""Chooses the devices that this hub hears: hubs on one database share the sixteen shards of the uplink topics.

Every hub has a lease with an end (`ingest-hub:<owner>`), which it renews at each look, and each shard has an owner
(`ingest-shard:<digit>`). A shard whose owner's lease is over is free, and no hub holds more than its fair part: one
that joins is given some, one that was killed is replaced within `LEASE_S`. Until then its devices are not heard, and
send again what has no receipt.

A hub that was paused may go on when its shards are somebody else's. It can hear what it likes: `fence` is asked in the
transaction that writes, and locks the owners' rows until its end. So a batch is written by whoever has the shard when
it is committed, and by nobody else. The hub's clock is the database's, which all of them have in common.

Shards are of one broker. Hubs with brokers of their own would each hear half of what their broker carries, and nobody
the rest: so one hub on a database may start one, and others join it (`broker.kind = "external"`).

SQLite has one hub, and no leases: it hears everybody.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import ColumnElement, SQLColumnExpression, delete, func, true
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud_hub.clock import SLACK_S
from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError
from cloud_hub.store.engine import is_shared, lock_name
from cloud_hub.store.tables import Lease
from fleet.protocol import topics

log = logging.getLogger(__name__)
LOOK_S = 2.0
LEASE_S = 15.0
ALL = frozenset(topics.DIGITS)
_HUB, _SHARD, _BROKER = "ingest-hub:", "ingest-shard:", "ingest-broker"


def fair(me: str, owners: Mapping[str, str], hubs: Collection[str]) -> frozenset[str]:
    """The shards that `me` should have. Pure.

    Args:
        owners: who has each shard, as far as somebody does.
        hubs: the owners that live, `me` among them.
    """
    most = math.ceil(len(topics.DIGITS) / len(hubs))
    mine = [digit for digit in topics.DIGITS if owners.get(digit) == me]
    free = [digit for digit in topics.DIGITS if owners.get(digit) not in hubs]
    return frozenset((mine + free)[:most])


class Shards:
    """This hub's shards; `digits` are those of the last look. Used by one thread."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._shared = is_shared(hub.engine)
        self._owner = secrets.token_hex(8)
        self._starts_broker = hub.config.broker.resolved().kind != "external"
        self._rival = ""
        self.digits = frozenset() if self._shared else ALL

    def look(self) -> frozenset[str]:
        """Renew this hub's lease, take what is free up to the fair part, and give back what is beyond; what it has.

        Raises:
            ConflictError: this hub and another one on the database start a broker each; it has no shards.
        """
        if self._shared:
            with self._hub.session() as session:
                self._rival = self._broker_of_another(session)
                digits = frozenset() if self._rival else self._look(session)
            if digits != self.digits:
                log.info("this hub hears the shards %s", "".join(sorted(digits)) or "of nobody")
            self.digits = digits
            self.check()
        return self.digits

    def check(self) -> None:
        """Raise ConflictError when the last look found another hub's own broker: this one's must not carry anything."""
        if self._rival:
            raise ConflictError(
                "another hub on this database runs a broker of its own, and devices at a second one would be heard by"
                " nobody: this hub starts none",
                subject="broker",
                hint='join the other\'s: [broker] kind = "external", host, port (docs/how-to/run-two-hubs.md)',
            )

    def fence(self, session: Session, digits: Iterable[str]) -> frozenset[str]:
        """Those of `digits` that are this hub's until the session's transaction ends."""
        if not self._shared:
            return ALL
        names = [_SHARD + digit for digit in set(digits)]
        mine = (
            select(Lease.name)
            .where(col(Lease.name).in_(names), Lease.owner == self._owner)
            .order_by(col(Lease.name))
            .with_for_update(read=True)
        )
        return frozenset(name.removeprefix(_SHARD) for name in session.exec(mine))

    def among(self, device_id: SQLColumnExpression[str]) -> ColumnElement[bool]:
        """A condition of SQL: the device is of one of this hub's shards."""
        if self.digits == ALL:
            return true()
        hashed = func.encode(func.sha256(func.convert_to(device_id, "UTF8")), "hex")
        return func.left(hashed, 1).in_(sorted(self.digits))

    def leave(self) -> None:
        """Give everything back, so that nobody has to wait for it."""
        if not self._shared:
            return
        try:
            with self._hub.session() as session:
                session.connection().execute(delete(Lease).where(col(Lease.owner) == self._owner))
        except SQLAlchemyError as away:
            log.warning("the shards of this hub are free in %.0f s: %s", LEASE_S, away)
        self.digits = frozenset()

    def _broker_of_another(self, session: Session) -> str:
        """The hub that lives and has started a broker, if this one starts one, too; else this one is noted as it."""
        lock_name(session, "ingest-shards")
        now = self._hub.clock()
        over = (col(Lease.until) <= now) | (col(Lease.until) > now + LEASE_S + SLACK_S)  # or of a clock that ran ahead
        session.connection().execute(delete(Lease).where(col(Lease.name).startswith(_HUB), over))
        if not self._starts_broker:
            return ""
        has = session.get(Lease, _BROKER)
        if has is not None and has.owner != self._owner and session.get(Lease, _HUB + has.owner) is not None:
            session.connection().execute(delete(Lease).where(col(Lease.owner) == self._owner))
            return has.owner
        session.merge(Lease(name=_BROKER, owner=self._owner, until=0.0))
        return ""

    def _look(self, session: Session) -> frozenset[str]:
        now = self._hub.clock()
        session.merge(Lease(name=_HUB + self._owner, owner=self._owner, until=now + LEASE_S))
        session.flush()
        hubs = set(session.exec(select(Lease.owner).where(col(Lease.name).startswith(_HUB))))
        shards = {row.name.removeprefix(_SHARD): row for row in session.exec(_shards())}
        before = frozenset(digit for digit, row in shards.items() if row.owner == self._owner)
        after = fair(self._owner, {digit: row.owner for digit, row in shards.items()}, hubs)
        for digit in before - after:
            session.delete(shards[digit])
        taken = after - before
        # One that a paused hub holds in the midst of a transaction is left alone: its transaction ends some day.
        free = {row.name for row in session.exec(_shards(taken).with_for_update(skip_locked=True))}
        got = frozenset(digit for digit in taken if digit not in shards or _SHARD + digit in free)
        for digit in sorted(got):
            session.merge(Lease(name=_SHARD + digit, owner=self._owner, until=0.0))
        return (before & after) | got


def _shards(digits: Iterable[str] = topics.DIGITS) -> SelectOfScalar[Lease]:
    return select(Lease).where(col(Lease.name).in_([_SHARD + digit for digit in digits])).order_by(col(Lease.name))
