"""The fleet's traffic by hour, model and release: what windows count, summed up once, soon after they came.

Of fifty thousand devices a week is millions of windows, which no page can read. Each window is therefore added to its
hour when it is met, and a number in `setting` says up to which one that was done: both are written in one transaction,
by whoever has the lock. Only releases that the hub has are counted, and no window counts for more than `MOST`
requests, so that a device that makes numbers up neither fills the table nor overflows it. What devices count is their
word: it is shown and priced, and nothing is decided by it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.ingest.summing import beginning
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Release, Setting, Traffic, WindowRow
from fleet.protocol.durations import HOUR_S

STEP = 2000  # windows of one transaction
MOST = 10**9  # requests that one window counts for
UPTO = "traffic-counted"
COUNTED = ("requests", "edge", "cloud", "audited", "refused")
Key = tuple[int, str, int]  # begins, model, release


def count(hub: Hub, upto: int) -> int:
    """Add some windows that have come since the last call to their hours; returns how many were met.

    Args:
        upto: the number up to which none is yet to come (`store.windows.settled`).
    """
    with hub.session() as session:
        lock_name(session, UPTO)
        mark = session.get(Setting, UPTO) or Setting(key=UPTO, value="0")
        columns = (WindowRow.id, WindowRow.model, WindowRow.release, WindowRow.ended_at, WindowRow.body)
        wanted: Any = select(*columns).where(col(WindowRow.id) > int(mark.value), col(WindowRow.id) <= upto)  # type: ignore[call-overload]
        rows = session.exec(wanted.order_by(col(WindowRow.id)).limit(STEP)).all()
        _add(session, rows, hub.clock())
        mark.value = str(rows[-1][0] if len(rows) == STEP else max(upto, int(mark.value)))
        session.add(mark)
    return len(rows)


def forget(hub: Hub, before: float) -> int:
    """Delete the hours that began before a moment (Unix seconds); returns 0: one call deletes all of them."""
    with hub.session() as session:
        session.connection().execute(delete(Traffic).where(col(Traffic.begins) < int(before)))
    return 0


def hours(session: Session, since: float, model: str = "") -> list[Traffic]:
    """The hours that began at a moment or later, in order; of one model if it is named."""
    wanted = select(Traffic).where(Traffic.begins >= math.floor(since))
    wanted = wanted.where(Traffic.model == model) if model else wanted
    return list(session.exec(wanted.order_by(col(Traffic.begins), col(Traffic.model), col(Traffic.release))))


def unanswered(counters: Mapping[str, int]) -> int:
    """The requests that neither the edge nor the cloud answered: agents of 0.1 counted as failed also those that the
    cloud answered in the end."""
    get = counters.get
    return max(get("requests", 0) - get("edge", 0) - get("cloud", 0), get("refused", 0), 0)


def _add(session: Session, rows: Iterable[tuple[int, str, int, float, dict[str, Any]]], now: float) -> None:
    found: dict[Key, Counter[str]] = defaultdict(Counter)
    known = set(session.exec(select(Release.model, Release.number)).all())
    for _, model, release, ended_at, body in rows:
        if (model, release) in known:
            found[beginning(ended_at, now, HOUR_S), model, release].update(_counts(body.get("counters", {})))
    for key, counted in found.items():
        row = session.get(Traffic, key) or Traffic(begins=key[0], model=key[1], release=key[2])
        for name, number in counted.items():
            setattr(row, name, getattr(row, name) + number)
        session.add(row)


def _counts(counters: Mapping[str, Any]) -> dict[str, int]:
    bounded = {name: min(int(counters.get(name, 0)), MOST) for name in COUNTED}
    return {**bounded, "failed": unanswered(bounded), "windows": 1}
