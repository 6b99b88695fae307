"""The outbox: events are recorded in the transaction in which they happen, spread to targets, claimed and settled.

Several hubs share it. Spreading and claiming skip what another hub has locked; a claim moves `next_at` behind the time
that a try can take, so that the delivery of a hub that dies in between is tried again, by whichever hub looks then.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, delete, exists, func, not_, or_, update
from sqlmodel import Session, col, select

from cloud_hub.clock import SLACK_S
from cloud_hub.events import schedule
from cloud_hub.events.kinds import Event, bounded, is_wanted, place_in_hour
from cloud_hub.events.schedule import LIFE_S, DeliveryState
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import EventDelivery, EventRow
from fleet.protocol.durations import DAY_S, HOUR_S

BATCH = 200  # events that are spread at a time
LOGGED = 20  # tries that a delivery remembers
ONCE_S = 70 * DAY_S  # longer than from one reminder of an end to the next, or to the end
RESTORED = "the hub was restored from a backup: this may have been sent since"
UNCLAIMED_S = HOUR_S  # that nobody tried what was due: hubs whose hub.toml differs have time to be started again
REMOVED = "no hub.toml has this target any more"
LONGEST_PAUSE_S = schedule.PAUSES_S[-1] * (1 + schedule.JITTER)


class Claimed(NamedTuple):
    """A delivery that is ours to try until its claim ends; `tries` counts this one."""

    event: str
    tries: int
    expires_at: float


def record(session: Session, event: Event, now: float, *, once: str = "", target: str = "") -> str:
    """Keep an event in the caller's transaction; returns its id, or nothing when it is left out.

    Args:
        now: when it happened, in Unix seconds.
        once: a name under which something is said once only.
        target: the one target that a test is for.
    """
    if once:
        lock_name(session, f"event:{once}")
        if session.exec(select(EventRow.id).where(EventRow.once == once)).first() is not None:
            return ""
    within = (EventRow.at > now - HOUR_S, EventRow.at <= now + SLACK_S)  # not what a clock that ran ahead has left
    alike = (EventRow.kind == event.kind, EventRow.target != "" if target else EventRow.target == "")
    event = bounded(event)
    of_it = func.coalesce(func.sum(case((col(EventRow.subject) == event.subject, 1), else_=0)), 0)
    earlier, of_it = session.exec(select(func.count(), of_it).where(*alike, *within)).one()
    kept, note = place_in_hour(earlier, int(of_it))
    if not kept:
        return ""
    row = EventRow(
        id=f"evt_{secrets.token_hex(12)}",
        at=now,
        kind=event.kind,
        subject=event.subject,
        message=event.message + note,
        data=event.data,
        once=once or None,
        target=target,
    )
    session.add(row)
    return row.id


def unspread(session: Session) -> bool:
    """Tell whether some event has no deliveries yet."""
    return session.exec(select(EventRow.number).where(col(EventRow.spread_at).is_(None)).limit(1)).first() is not None


def spread(session: Session, targets: Mapping[str, Collection[str]], now: float, jump_s: float = 0.0) -> int:
    """Give the next events a delivery for each target whose patterns mean them; how many events there were.

    Args:
        jump_s: how far the clock has jumped ahead since they may have happened.
    """
    waiting = select(EventRow).where(col(EventRow.spread_at).is_(None)).order_by(col(EventRow.number)).limit(BATCH)
    found = list(session.exec(waiting.with_for_update(skip_locked=True)))
    for row in found:
        row.spread_at = now
        session.add(row)
        session.flush()
        for name, patterns in targets.items():
            if name == row.target or (not row.target and is_wanted(patterns, row.kind)):
                session.add(
                    EventDelivery(
                        event=row.id,
                        target=name,
                        state="waiting",
                        next_at=now,
                        expires_at=row.at + jump_s + LIFE_S,
                        updated_at=now,
                    )
                )
    return len(found)


def is_due(session: Session, target: str, now: float) -> bool:
    """Tell whether a delivery to a target is due.

    Args:
        session: an open one.
        target: its name in `hub.toml`.
        now: Unix seconds.
    """
    return session.exec(select(EventDelivery.event).where(*_due(target, now)).limit(1)).first() is not None


def claim(session: Session, target: str, owner: str, now: float, *, lasts_s: float, limit: int) -> list[Claimed]:
    """Take deliveries to a target that are due, the oldest first.

    Args:
        session: a writing transaction.
        target: its name.
        owner: the hub that tries them.
        now: Unix seconds.
        lasts_s: seconds after which another hub may take them.
        limit: at most so many.
    """
    oldest = select(EventDelivery).where(*_due(target, now)).order_by(col(EventDelivery.next_at)).limit(limit)
    found = list(session.exec(oldest.with_for_update(skip_locked=True)))
    for row in found:
        row.owner, row.next_at, row.updated_at = owner, now + lasts_s, now
        row.tries += 1
        session.add(row)
    return [Claimed(row.event, row.tries, row.expires_at) for row in found]


def postpone(session: Session, target: str, jump_s: float, now: float) -> None:
    """Let what waits for a target end so much later: the clock has jumped ahead to `now`, and no time has passed.

    Several hubs may see one jump: nothing has more than a whole life before it.

    Args:
        session: an open one; the caller commits.
        target: its name in `hub.toml`.
        jump_s: seconds by which the clock jumped.
        now: Unix seconds after the jump.
    """
    later, most = col(EventDelivery.expires_at) + jump_s, now + LIFE_S
    waiting = (col(EventDelivery.target) == target, col(EventDelivery.state) == "waiting")
    session.execute(update(EventDelivery).where(*waiting).values(expires_at=case((later > most, most), else_=later)))


def settle(
    session: Session, event: str, target: str, owner: str, verdict: DeliveryState, tried: Mapping[str, Any], now: float
) -> bool:
    """Record the result of a try.

    Args:
        session: a writing transaction.
        event: its id.
        target: its name.
        owner: the hub that claimed the delivery.
        verdict: the delivery's new state.
        tried: the line for its log.
        now: Unix seconds.

    Returns:
        False when the claim had ended and somebody else has it, whose result counts.
    """
    row = session.get(EventDelivery, (event, target), with_for_update=True)
    if row is None or row.owner != owner or row.state != "waiting":
        return False
    row.state, row.next_at, row.updated_at, row.owner = verdict.state, verdict.next_at, now, ""
    row.log = [*row.log, dict(tried)][-LOGGED:]
    session.add(row)
    return True


def let_go(session: Session, now: float) -> None:
    """End whatever waits: a restored hub does not know what was sent since its backup was made."""
    session.execute(update(EventRow).where(col(EventRow.spread_at).is_(None)).values(spread_at=now))
    waiting = select(EventDelivery).where(EventDelivery.state == "waiting").execution_options(yield_per=BATCH)
    for row in session.exec(waiting):
        row.state, row.owner, row.updated_at = "dead", "", now
        row.log = [*row.log, {"at": now, "error": RESTORED}][-LOGGED:]
        session.add(row)


def end_removed(session: Session, targets: Collection[str], now: float) -> int:
    """End deliveries to removed targets that no hub has tried since they were due; return their number.

    Another hub may have such a target in its `hub.toml` already, or still: it tries what is due, and loses nothing
    here. `targets` are those of this hub.

    Args:
        session: an open one; the caller commits.
        targets: the names of this hub's.
        now: Unix seconds.
    """
    gone = (col(EventDelivery.state) == "waiting", col(EventDelivery.target).not_in(list(targets)))
    query = select(EventDelivery).where(*gone, EventDelivery.next_at <= now - UNCLAIMED_S).limit(BATCH)
    found = list(session.exec(query.with_for_update(skip_locked=True)))
    for row in found:
        row.state, row.owner, row.updated_at = "dead", "", now
        row.log = [*row.log, {"at": now, "error": REMOVED}][-LOGGED:]
        session.add(row)
    return len(found)


def prune(session: Session, now: float, *, keep_s: float, most: int) -> None:
    """Forget events that are older than `keep_s` seconds, and the oldest of more than `most`, with their deliveries.

    By its age nothing goes that still waits, since the clock may have jumped ahead; nor what is said once only, as long
    as it might be said again.

    Args:
        session: an open one; the caller commits.
        now: Unix seconds.
        keep_s: age in seconds.
        most: events that may stay.
    """
    edge = select(EventRow.number).order_by(col(EventRow.number).desc()).offset(most).limit(1)
    number = session.exec(edge).first()
    waits = exists().where(col(EventDelivery.event) == EventRow.id, col(EventDelivery.state) == "waiting")
    once = and_(col(EventRow.once).is_not(None), col(EventRow.at) >= now - max(keep_s, ONCE_S))
    aged = and_(col(EventRow.at) < now - keep_s, col(EventRow.spread_at).is_not(None), not_(or_(waits, once)))
    old = or_(aged, and_(col(EventRow.number) <= (number if number is not None else 0), not_(once)))
    gone = select(EventRow.id).where(old)
    session.execute(delete(EventDelivery).where(col(EventDelivery.event).in_(gone)))
    session.execute(delete(EventRow).where(old))


def find(session: Session, event: str) -> EventRow | None:
    """The event with this id."""
    return session.exec(select(EventRow).where(EventRow.id == event)).first()


def _due(target: str, now: float) -> tuple[ColumnElement[bool], ...]:
    """Of a target, waiting, and its time has come; or it lies further ahead than any pause (a clock ran ahead)."""
    ahead = col(EventDelivery.next_at) > now + LONGEST_PAUSE_S + SLACK_S
    due = or_(col(EventDelivery.next_at) <= now, ahead)
    return col(EventDelivery.target) == target, col(EventDelivery.state) == "waiting", due
