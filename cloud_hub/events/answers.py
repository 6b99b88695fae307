"""The API's questions about events, and its two orders: a test, and another try."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError, RateError
from cloud_hub.events import outbox
from cloud_hub.events.kinds import KINDS, MOST_OF_ONE, MOST_PER_HOUR, Event
from cloud_hub.events.schedule import LIFE_S
from cloud_hub.events.targets import open_target
from cloud_hub.store.events import counts
from cloud_hub.store.tables import EventDelivery, EventRow
from fleet.api.events import DeliveryInfo, EventInfo, EventPage, TargetInfo, Try


def newest(hub: Hub, *, after: int, limit: int, since: float, kind: str, state: str) -> EventPage:
    """At most `limit` events, newest first.

    Args:
        after: the number of the last one seen; 0 for the first page.
        since: only those of then or later (Unix seconds).
        kind: only this kind; empty for all.
        state: only those with a delivery in this state; empty for all.

    Raises:
        InvalidError: there is no such kind.
    """
    if kind and kind not in KINDS:
        raise InvalidError(f"no event is called {kind!r}", subject="kind", hint=f"one of {', '.join(KINDS)}")
    query = select(EventRow).where(EventRow.at >= since).order_by(col(EventRow.number).desc()).limit(limit + 1)
    if after:
        query = query.where(col(EventRow.number) < after)
    if kind:
        query = query.where(EventRow.kind == kind)
    if state:
        some = select(EventDelivery.event).where(EventDelivery.state == state)
        query = query.where(col(EventRow.id).in_(some))
    with hub.reading() as session:
        rows = list(session.exec(query))
        shown = _with_deliveries(session, rows[:limit])
    return EventPage(items=shown, next=shown[-1].number if len(rows) > limit else None)


def get(hub: Hub, event: str) -> EventInfo:
    """One event with its deliveries; NotFoundError."""
    with hub.reading() as session:
        return _one(session, event)


def test(hub: Hub, target: str, *, actor: str) -> EventInfo:
    """Send a test to a target.

    Args:
        hub: the hub.
        target: its name in `hub.toml`.
        actor: as in the audit log.

    Raises:
        NotFoundError: `hub.toml` has none of that name. RateError: too many tests, which would drive out other events.
    """
    _known(hub, target)
    event = Event(kind="event.test", subject=target, message=f"a test of {target}, asked for by {actor}")
    with hub.session() as session:
        found = outbox.record(session, event, hub.clock(), target=target)
        if not found:
            said = f"{target} was sent {MOST_OF_ONE} tests within an hour, or all targets {MOST_PER_HOUR}"
            raise RateError(said, subject=target, hint="fleet event list --kind event.test says what became of them")
        session.flush()
        hub.audit(session, actor, "event.test", target, {"event": found})
        return _one(session, found)


def resend(hub: Hub, event: str, target: str, *, actor: str) -> EventInfo:
    """Try deliveries of an event anew, from the first try on: that to `target`, or every dead one.

    Args:
        hub: the hub.
        event: its id.
        target: its name in `hub.toml`; empty for all.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such event, or it does not go to the target. ConflictError: no delivery of it is dead.
    """
    now = hub.clock()
    with hub.session() as session:
        _one(session, event)
        query = select(EventDelivery).where(EventDelivery.event == event).with_for_update()
        query = query.where(EventDelivery.target == target if target else EventDelivery.state == "dead")
        rows = [row for row in session.exec(query) if row.target in hub.config.events.targets]
        if not rows and target:
            hint = "fleet event show says which targets it goes to"
            _known(hub, target)
            raise NotFoundError(f"event {event} does not go to {target!r}", subject=target, hint=hint)
        if not rows:
            hint = "name a target to send it there once more: --target NAME"
            raise ConflictError(
                f"no delivery of event {event} to a target of hub.toml is dead", subject=event, hint=hint
            )
        for row in rows:
            row.state, row.tries, row.owner = "waiting", 0, ""
            row.next_at, row.expires_at, row.updated_at = now, now + LIFE_S, now
            session.add(row)
        hub.audit(session, actor, "event.resend", event, {"targets": [row.target for row in rows]})
        session.flush()
        return _one(session, event)


def targets(hub: Hub) -> list[TargetInfo]:
    """The targets of this hub's configuration."""
    with hub.reading() as session:
        tally = counts(session)
    found = []
    for name, settings in sorted(hub.config.events.targets.items()):
        host = open_target(name, settings, os.environ, hub.config.broker.prefix).place.host
        states = {state: tally.get((name, state), 0) for state in ("waiting", "delivered", "dead")}
        found.append(TargetInfo(name=name, format=settings.format, host=host, kinds=list(settings.kinds), **states))
    return found


def _known(hub: Hub, target: str) -> None:
    known = hub.config.events.targets
    if target not in known:
        there = f"it has {', '.join(sorted(known))}" if known else "it has none"
        hint = f"{there}; docs/how-to/be-told.md says how one is set up"
        raise NotFoundError(f"hub.toml has no target {target!r}", subject=target, hint=hint)


def _one(session: Session, event: str) -> EventInfo:
    row = outbox.find(session, event)
    if row is None:
        raise NotFoundError(f"no event {event!r}", subject=event, hint="see: fleet event list")
    return _with_deliveries(session, [row])[0]


def _with_deliveries(session: Session, rows: Iterable[EventRow]) -> list[EventInfo]:
    rows = list(rows)
    ids = [row.id for row in rows]
    query = select(EventDelivery).where(col(EventDelivery.event).in_(ids)).order_by(col(EventDelivery.target))
    of: dict[str, list[DeliveryInfo]] = {}
    for row in session.exec(query):
        of.setdefault(row.event, []).append(_delivery(row))
    return [
        EventInfo(
            number=row.number or 0,
            id=row.id,
            at=row.at,
            kind=row.kind,
            subject=row.subject,
            message=row.message,
            data=row.data,
            deliveries=of.get(row.id, []),
        )
        for row in rows
    ]


def _delivery(row: EventDelivery) -> DeliveryInfo:
    return DeliveryInfo(
        target=row.target,
        state=row.state,  # type: ignore[arg-type]  # the database's word; pydantic checks it
        tries=row.tries,
        next_at=row.next_at if row.state == "waiting" else None,
        log=[Try.model_validate(one) for one in row.log],
    )
