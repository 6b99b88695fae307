"""Windows that drift monitors have not counted yet: whose place is waited for, which are kept, and what went uncounted.

Only releases that are some channel's default keep a model's windows waiting, since that is what an operator has chosen.
A release that a device merely says it serves keeps nobody's: its monitor counts what is there, and what went before it
could is said. A monitor that gathers its first windows is beyond them, and keeps these few alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.store.tables import DriftMonitor, DriftScope, InputMonitor, MeaningMonitor, Setting, WindowRow
from fleet.protocol.bounds import LARGEST

AWAITED = "awaited"  # of a monitor's document: the numbers of the windows that it has gathered for its first baseline
LOST = "windows-uncounted"
LOST_S = 30 * 86_400.0  # how long it is spoken of
MOST = 64  # releases of a model of which it is
Key = tuple[str, int]  # model and release


class CountingPosition(Struct, frozen=True, kw_only=True):
    """Up to which window all monitors of a release have counted, the earlier ones that are kept for them, and whether
    its later ones wait."""

    last: int
    awaited: frozenset[int] = frozenset()
    waits: bool = True


class Lost(Struct, frozen=True, kw_only=True):
    """The number of a release's `windows` that were dropped uncounted, the last of them `at` (Unix seconds)."""

    release: int
    windows: int
    at: float

    @property
    def words(self) -> str:
        """For people."""
        at = datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%d %H:%M")
        return f"{self.windows} windows were put away before they were counted, the last of them {at} UTC"


def places(session: Session) -> dict[Key, CountingPosition]:
    """Return the positions of the monitors of each release."""
    defaults = {row.model: _defaults(row) for row in session.exec(select(DriftScope))}
    found: dict[Key, CountingPosition] = {}
    for model, release, last, awaited in _told(session):
        before = found.get((model, release), CountingPosition(last=LARGEST))
        found[model, release] = CountingPosition(
            last=min(last, before.last),
            awaited=before.awaited | frozenset(awaited),
            waits=model not in defaults or release in defaults[model],  # nobody has looked yet who is whose
        )
    return found


def _told(session: Session) -> Iterator[tuple[str, int, int, Iterable[int]]]:
    for drift in session.exec(select(DriftMonitor.model, DriftMonitor.release, DriftMonitor.last_window)):
        yield *drift, ()
    # Those that gather are few, and only their documents are long.
    gathering = select(DriftMonitor.model, DriftMonitor.release, DriftMonitor.last_window, DriftMonitor.document)
    for model, release, last, document in session.exec(gathering.where(DriftMonitor.state == "waiting")):
        yield model, release, last, document.get(AWAITED, ())
    for inputs in session.exec(select(InputMonitor.model, InputMonitor.release, InputMonitor.last_window)):
        yield *inputs, ()
    meaning = select(MeaningMonitor.model, MeaningMonitor.release, MeaningMonitor.last_window, MeaningMonitor.document)
    for model, release, last, document in session.exec(meaning):
        if not document.get("alarmed"):  # else it passes what comes meanwhile
            yield model, release, last, ()


def _defaults(row: DriftScope) -> frozenset[int]:
    return frozenset(one["release"] for one in row.document.get("watched", ()) if one.get("default"))


def count_lost(session: Session, rows: Iterable[WindowRow], now: float) -> Counter[Key]:
    """Record which of some windows, which go now, were not counted by a monitor of their release; return how many of
    each.

    Args:
        session: an open one; the caller commits.
        rows: the windows that go.
        now: Unix seconds.
    """
    where = places(session)
    found: Counter[Key] = Counter()
    for row in rows:
        place = where.get((row.model, row.release))
        if place is not None and ((row.id or 0) > place.last or row.id in place.awaited):
            found[row.model, row.release] += 1
    if found:
        told = {(model, one.release): one for model, some in lost(session).items() for one in some}
        told = {key: one for key, one in told.items() if now - one.at < LOST_S}
        for key, count in sorted(found.items()):
            before = told.pop(key, None)  # the latest stand last
            told[key] = Lost(release=key[1], windows=count + (before.windows if before is not None else 0), at=now)
        document: defaultdict[str, list[Lost]] = defaultdict(list)
        for (model, _), one in told.items():
            document[model] = [*document[model], one][-MOST:]
        session.merge(Setting(key=LOST, value=msgspec.json.encode(document).decode()))
    return found


def lost(session: Session) -> dict[str, list[Lost]]:
    """By model, what went uncounted."""
    row = session.get(Setting, LOST)
    return msgspec.json.decode(row.value, type=dict[str, list[Lost]]) if row is not None else {}


def awaited_windows(found: Iterable[CountingPosition]) -> list[int]:
    """The numbers of the windows that are kept for monitors that have passed them."""
    return sorted(number for place in found for number in place.awaited)


def awaits(session: Session, monitor: DriftMonitor) -> list[WindowRow]:
    """The windows that a monitor has gathered; those that are gone are none any more."""
    numbers = monitor.document.get(AWAITED, [])
    if not numbers:
        return []
    rows = select(WindowRow).where(col(WindowRow.id).in_(numbers)).order_by(col(WindowRow.id))
    return list(session.exec(rows))
