"""Reading the audit log; `Hub.audit` writes it."""

from __future__ import annotations

from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.store.tables import AuditEntry
from fleet.api.audit import AuditPage, AuditRecord

FEW = 10_000  # records of a time are looked up by their time; more are met soon by whoever reads in order


def list_records(
    hub: Hub,
    *,
    after: int,
    limit: int,
    newest: bool = False,
    since: float = 0.0,
    until: float | None = None,
    subject: str = "",
    actor: str = "",
) -> AuditPage:
    """At most `limit` records in their order, from those after the id `after` on; `newest`: the other way round.

    Args:
        after: 0 for the first page.
        since: only those of then or later (Unix seconds).
        until: only those before then; None for all.
        subject: only those of one device, rollout, release, …; empty for all.
        actor: only what one actor did; empty for all.
    """
    number = col(AuditEntry.id)
    wanted = select(AuditEntry).where(AuditEntry.at >= since).limit(limit + 1)
    # Of a time that has ended, its own records are put in order: by number, all since then would be walked through.
    order = number if until is None else number + 0
    wanted = wanted.order_by(order.desc() if newest else order)
    if after:
        wanted = wanted.where(number < after if newest else number > after)
    if subject:
        wanted = wanted.where(AuditEntry.subject == subject)
    if until is not None:
        wanted = wanted.where(AuditEntry.at < until)
    if actor:
        wanted = wanted.where(AuditEntry.actor == actor)
    with hub.reading() as session:
        if since and until is None:
            first = _first(session, since)
            if first is None:
                return AuditPage(items=[], next=None)
            wanted = wanted.where(number >= first)
        records = [AuditRecord.model_validate(vars(row)) for row in session.exec(wanted)]
    return AuditPage(items=records[:limit], next=records[limit - 1].id if len(records) > limit else None)


def _first(session: Session, since: float) -> int | None:
    """A number before which no record is of `since` or later; None without any, 0 where they are too many to tell.

    Numbers and times need not go together: a clock that was set back writes earlier times under later numbers.
    """
    few = select(AuditEntry.id).where(AuditEntry.at >= since).order_by(col(AuditEntry.at)).limit(FEW + 1).subquery()
    count, first = session.exec(select(func.count(), func.min(few.c.id)).select_from(few)).one()
    return 0 if count > FEW else first
