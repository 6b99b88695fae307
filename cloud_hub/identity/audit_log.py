"""Reading the audit log; `Hub.audit` writes it."""

from __future__ import annotations

from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.store.tables import AuditEntry
from fleet.api.audit import AuditFilter, AuditPage, AuditRecord
from fleet.protocol.bounds import LARGEST

FEW = 10_000  # records of a time are looked up by their time; more are met soon by whoever reads in order
ALL = AuditFilter()


def list_records(hub: Hub, wanted: AuditFilter = ALL, *, after: int = 0, limit: int, newest: bool = False) -> AuditPage:
    """List records in their order.

    The reading is bounded by an index: by the numbers that a time has, by actor, action or subject.

    Args:
        hub: of the log.
        wanted: the filter.
        after: an id; only records after it, 0 for the first page.
        limit: at most so many.
        newest: the other way round.
    """
    number = col(AuditEntry.id)
    query = select(AuditEntry).where(AuditEntry.at >= wanted.since).limit(limit + 1)
    query = query.order_by(number.desc() if newest else number)
    if after:
        query = query.where(number < after if newest else number > after)
    if wanted.until is not None:
        query = query.where(AuditEntry.at < wanted.until)
    for column, value in (
        (AuditEntry.actor, wanted.actor),
        (AuditEntry.action, wanted.action),
        (AuditEntry.subject, wanted.subject),
    ):
        if value:
            query = query.where(column == value)
    with hub.reading() as session:
        if wanted.since or wanted.until is not None:
            first, last = _span(session, wanted, newest=newest)
            if last is None:
                return AuditPage(items=[], next=None)
            query = query.where(number >= first, number <= last)
        records = [AuditRecord.model_validate(vars(row)) for row in session.exec(query)]
    return AuditPage(items=records[:limit], next=records[limit - 1].id if len(records) > limit else None)


def _span(session: Session, wanted: AuditFilter, *, newest: bool) -> tuple[int, int | None]:
    """Between which numbers, both included, all records of a time are; the last is None where there is none.

    Numbers and times need not go together: a clock that was set back writes earlier times under later numbers. So
    where they are few, all are looked at. Where they are many, the number that the reading begins with is looked up,
    in the index of times alone, and the other end stays open: the page is full long before. An index of who, what or
    whose needs no such number.
    """
    since, until = wanted.since, wanted.until
    of_time = select(AuditEntry.id).where(AuditEntry.at >= since)
    if until is not None:
        of_time = of_time.where(AuditEntry.at < until)
    few = of_time.order_by(col(AuditEntry.at)).limit(FEW + 1).subquery()
    count, first, last = session.exec(select(func.count(), func.min(few.c.id), func.max(few.c.id))).one()
    if count <= FEW:
        return first or 0, last
    if wanted.actor or wanted.action or wanted.subject:
        return 0, LARGEST
    every = of_time.subquery()  # with a count: an end alone would be looked for in the order of numbers
    if newest:
        return 0, LARGEST if until is None else session.exec(select(func.max(every.c.id), func.count())).one()[0]
    return session.exec(select(func.min(every.c.id), func.count())).one()[0] if since else 0, LARGEST
