"""Old telemetry into sums by hour and day, and away at the end of its retention (`[telemetry]` of `hub.toml`).

    window → an hour's sum → a day's sum → gone

How old a window is, is known by when it came and not by the clock of its device: about once an hour it is noted up to
which number windows have come by now. A window is summed up when it is old enough and the drift monitors of its model's
defaults have counted it, or when it has waited for them for too long; other releases keep nobody's waiting, and what
goes before their monitors have counted it is said (`store.uncounted`). Each step is a transaction over `STEP` rows at
most, so that ingest waits for none of them for long; which windows are due is found before, where nobody waits. What
cannot be summed up is left out, and said, and never keeps the rest from it. The newest row of a table is never deleted:
SQLite would give its number again, and monitors go by numbers.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from typing import Any

import msgspec
from sqlalchemy import delete
from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.ingest import traffic
from cloud_hub.ingest.summing import Part, beginning, summed
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.store import bulk, outcomes
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import (
    DeviceEvent,
    Model,
    Setting,
    VitalsHourRow,
    WindowRow,
    WindowSum,
)
from cloud_hub.store.types import document_text
from cloud_hub.store.uncounted import awaited_windows, count_lost, places
from cloud_hub.store.windows import settled
from fleet.protocol.bounds import LARGEST, storable
from fleet.protocol.durations import DAY_S, HOUR_S
from fleet.protocol.telemetry import SketchData

log = logging.getLogger(__name__)
STEP = 200  # rows of one transaction
STEPS = 100  # of each kind and look: more than a minute brings of ten thousand devices
ROOM = 20_000  # sums of one device: 720 hours and 400 days of more than a dozen models
MARKS = "windows-came"
MARK_S = 3600.0
JUMP_S = 3600.0

Key = tuple[str, str, int, int, int]  # of a row of `window_sum`
_COLUMNS = (
    "device_id",
    "model",
    "release",
    "span_s",
    "begins",
    "started_at",
    "ended_at",
    "windows",
    "body",
    "sketch_id",
    "sketch_count",
    "sketch",
)
_KEY = _COLUMNS[:5]


class Mark(msgspec.Struct, frozen=True):
    """By `at` (Unix seconds) windows had come up to the number `upto`."""

    at: float
    upto: int


class Compaction(PeriodicService):
    """Looks every `telemetry.every_s` seconds. What it deletes is gone, so it does not trust a clock that has just
    jumped ahead."""

    name = "telemetry-compaction"

    def __init__(self, hub: Hub, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(hub, hub.config.telemetry.every_s)
        self._monotonic = monotonic
        self._last: tuple[float, float] | None = None

    def look(self) -> None:
        """Sum up and delete what is due: each kind by itself.

        Raises:
            Exception: one of them has failed; the others are done.
        """
        hub, kept, now = self._hub, self._hub.config.telemetry, self._hub.clock()
        here = now, self._monotonic()
        before, self._last = self._last or here, here
        if (here[0] - before[0]) - (here[1] - before[1]) > JUMP_S:
            log.warning("the clock has jumped ahead: no telemetry is deleted now")
            return
        upto = settled(hub.engine)
        marks = _note(hub, upto, now)
        old, oldest = (_came_before(marks, now - days * DAY_S) for days in (kept.windows_days, kept.uncounted_days))
        arrived_by = now - kept.windows_days * DAY_S
        steps: tuple[tuple[str, Callable[[], int]], ...] = (
            ("traffic", lambda: traffic.count(hub, upto)),  # before windows become sums
            ("windows", lambda: sum_windows(hub, old.upto, oldest.upto, arrived_by, marks)),
            ("hours", lambda: sum_hours(hub, now - kept.hours_days * DAY_S)),
            ("days", lambda: forget_days(hub, now - kept.days_days * DAY_S)),
            ("reports", lambda: forget_reports(hub, now - kept.reports_days * DAY_S)),
            ("hours of vitals", lambda: forget_vitals(hub, now - kept.hours_days * DAY_S)),
            ("traffic's hours", lambda: traffic.forget(hub, now - kept.days_days * DAY_S)),
            ("rollouts' outcomes", lambda: forget_outcomes(hub, now - kept.reports_days * DAY_S)),
        )
        failed: Exception | None = None
        for name, step in steps:
            try:
                _repeat(step)
            except Exception as error:  # the boundary of one kind: logged, and raised when the others are done
                log.exception("old %s cannot be put away", name)
                failed = error
        if failed is not None:
            raise failed


def sum_windows(hub: Hub, upto: int, even_uncounted: int, arrived_by: float, marks: Sequence[Mark] = ()) -> int:
    """Put some windows into the sums of their hours; returns how many.

    Args:
        upto: their numbers are at most this.
        even_uncounted: up to this number also those that a monitor has not counted.
        arrived_by: when they had come at the latest, Unix seconds.
        marks: say it more exactly.
    """
    due = _due(hub, upto, even_uncounted)
    if not due:
        return 0
    with _alone(hub) as session:  # another hub may have taken some meanwhile
        rows = session.exec(select(WindowRow).where(bulk.one_of(session, WindowRow.id, due))).all()
        known = set(session.exec(select(Model.name)))  # of others nobody will ever ask
        parts = [(_hour(row, _came_by(marks, row, arrived_by)), _part(row, 1)) for row in rows if row.model in known]
        _add(session, parts, ROOM)
        for (model, release), count in sorted(count_lost(session, rows, hub.clock()).items()):
            log.warning("%d windows of %s, release %d, go before its monitors counted them", count, model, release)
        gone = bulk.one_of(session, WindowRow.id, [row.id or 0 for row in rows])
        session.connection().execute(delete(WindowRow).where(gone))
    return len(rows)


def _hour(row: WindowRow, arrived_by: float) -> Key:
    return row.device_id, row.model, row.release, HOUR_S, beginning(row.ended_at, arrived_by, HOUR_S)


def _came_by(marks: Sequence[Mark], row: WindowRow, at_the_latest: float) -> float:
    """Return the time by which a window had come."""
    place = bisect_left(marks, row.id or 0, key=lambda mark: mark.upto)
    return min(marks[place].at, at_the_latest) if place < len(marks) else at_the_latest


def sum_hours(hub: Hub, before: float) -> int:
    """Put some hours that began before a moment into the sums of their days; returns how many."""
    with _alone(hub) as session:
        rows = _sums(session, HOUR_S, before)
        _add(session, [((*_key(row)[:3], DAY_S, row.begins // DAY_S * DAY_S), _part(row, row.windows)) for row in rows])
        _delete(session, rows)
    return len(rows)


def forget_days(hub: Hub, before: float) -> int:
    """Delete some days that began before a moment; returns how many."""
    with _alone(hub) as session:
        rows = _sums(session, DAY_S, before)
        _delete(session, rows)
    return len(rows)


def forget_reports(hub: Hub, before: float) -> int:
    """Delete some reports that came before a moment; returns how many."""
    with _alone(hub) as session:
        query = select(DeviceEvent.id, DeviceEvent.received_at).order_by(col(DeviceEvent.id)).limit(STEP)
        oldest = session.exec(query.where(col(DeviceEvent.id) < _newest(session, DeviceEvent))).all()
        gone = [number or 0 for number, received_at in oldest if received_at < before]
        session.connection().execute(delete(DeviceEvent).where(bulk.one_of(session, DeviceEvent.id, gone)))
    return len(gone)


def forget_vitals(hub: Hub, before: float) -> int:
    """Delete some hours of machines that began before a moment; returns how many."""
    with _alone(hub) as session:
        keys = select(VitalsHourRow.device_id, VitalsHourRow.begins).where(col(VitalsHourRow.begins) < before)
        rows = [tuple(key) for key in session.exec(keys.order_by(col(VitalsHourRow.begins)).limit(STEP))]
        bulk.delete(session, VitalsHourRow, ("device_id", "begins"), rows)
    return len(rows)


def forget_outcomes(hub: Hub, before: float) -> int:
    """Delete some of what rollouts that ended before a moment have counted and drawn; returns 0 at the end."""
    with _alone(hub) as session:
        return outcomes.forget(session, before, STEP)


@contextmanager
def _alone(hub: Hub) -> Iterator[Session]:
    """A transaction that no other hub's compaction is in, though a lease had ended too early."""
    with hub.session() as session:
        lock_name(session, Compaction.name)
        yield session


def _repeat(step: Callable[[], int]) -> None:
    """Until nothing is left, or it is enough for now."""
    for _ in range(STEPS):
        if step() < STEP:
            return


def _note(hub: Hub, upto: int, now: float) -> list[Mark]:
    """The marks so far, the newest last, and one of now where it is time for it; what a clock wrote that ran ahead is
    forgotten."""
    with hub.session() as session:
        row = session.get(Setting, MARKS, with_for_update=True)
        found = msgspec.json.decode(row.value, type=list[Mark]) if row is not None else []
        kept = hub.config.telemetry
        since = now - max(kept.windows_days, kept.uncounted_days) * DAY_S - 2 * MARK_S
        found = [mark for mark in found if mark.at <= now]
        found = [mark for mark in found if mark.at < since][-1:] + [mark for mark in found if mark.at >= since]
        if not found or now - found[-1].at >= MARK_S:
            found.append(Mark(now, upto))
            session.merge(Setting(key=MARKS, value=msgspec.json.encode(found).decode()))
    return found


def _came_before(marks: Sequence[Mark], moment: float) -> Mark:
    """The last mark before a moment; number 0 where nothing is known to have come by then."""
    return next((mark for mark in reversed(marks) if mark.at <= moment), Mark(0.0, 0))


def _newest(session: Session, table: type[WindowRow] | type[DeviceEvent]) -> int:
    return session.exec(select(func.max(table.id))).one() or 0


def _due(hub: Hub, upto: int, even_uncounted: int) -> list[int]:
    """The numbers of some windows up to one for which no monitor of their model waits, the oldest first.

    Each model's are found in an index, so that those that wait cost nothing.
    """
    with hub.reading() as session:
        upto = min(upto, _newest(session, WindowRow) - 1)
        where, found = places(session), list[int]()
        counted: dict[str, int] = {}
        for (name, _), place in where.items():
            if place.waits:
                counted[name] = min(place.last, counted.get(name, LARGEST))
        gathered = [number for number in awaited_windows(where.values()) if number > even_uncounted]
        known = session.exec(select(Model.name).order_by(col(Model.name))).all()
        model, number = col(WindowRow.model), col(WindowRow.id)
        free = [~bulk.one_of(session, WindowRow.id, gathered)] if gathered else []
        for name in known:
            last = min(upto, max(even_uncounted, counted.get(name, LARGEST)))
            query = select(WindowRow.id).where(model == name, number <= last, *free).order_by(number).limit(STEP)
            found += (one or 0 for one in session.exec(query))
        for before, after in pairwise((None, *known, None)):  # between them are models that nobody has
            if len(found) < STEP:
                between = [*((model > before,) if before else ()), *((model < after,) if after else ())]
                # By the model's index, and not by the primary key, which would read all others, too: hence the sum.
                query = select(WindowRow.id).where(*between, number + 0 <= upto).limit(STEP)
                found += (one or 0 for one in session.exec(query))
    return sorted(found)[:STEP]


def _sums(session: Session, span_s: int, before: float) -> list[WindowSum]:
    query = select(WindowSum).where(WindowSum.span_s == span_s, col(WindowSum.begins) < before - span_s)
    return list(session.exec(query.order_by(col(WindowSum.begins)).limit(STEP)))


def _key(row: WindowSum) -> Key:
    return row.device_id, row.model, row.release, row.span_s, row.begins


def _add(session: Session, parts: Sequence[tuple[Key, Part]], room: int = LARGEST) -> None:
    """Add to the rows of these keys, or make them, as long as a device has fewer than `room` rows."""
    gathered = {key: [part for _, part in some] for key, some in groupby(sorted(parts, key=_first), _first)}
    asked = bulk.listed(session, WindowSum, _KEY, gathered.keys())
    rows = session.exec(select(WindowSum).select_from(asked).outerjoin(WindowSum, bulk.same(WindowSum, asked)))
    there = {_key(row): _part(row, row.windows) for row in rows if row is not None}
    fits = there.keys() | _room(session, gathered.keys() - there.keys(), room)
    found = {key: _together(key, [*([there[key]] if key in there else []), *gathered[key]]) for key in sorted(fits)}
    bulk.upsert(session, WindowSum, _COLUMNS, [(*key, *values) for key, values in found.items() if values is not None])


def _room(session: Session, new: Collection[Key], room: int) -> set[Key]:
    """The keys for which their device has room; a clock that leaps about would make a row of every window."""
    if room == LARGEST or not new:
        return set(new)
    device = col(WindowSum.device_id)
    many = select(WindowSum.device_id, func.count()).where(device.in_({key[0] for key in new})).group_by(device)
    held: Counter[str] = Counter(dict(session.exec(many).all()))
    fits = set()
    for key in sorted(new):
        if held[key[0]] < room:
            held[key[0]] += 1
            fits.add(key)
    over = Counter(key[0] for key in new if key not in fits)
    for name, count in over.items():
        log.warning("%d hours of %s are not kept: it has %d sums of windows already", count, name, room)
    return fits


def _together(key: Key, parts: Sequence[Part]) -> tuple[Any, ...] | None:
    """The values of a row that stands for all parts, but for those that cannot be summed up; None without any other."""
    try:
        return _values(summed(parts))
    except Exception:  # whatever is wrong with one part must not keep the others waiting for ever
        log.exception("what %s said of %s from %d on cannot be summed up as a whole", key[0], key[1], key[4])
    found: tuple[Part, tuple[Any, ...]] | None = None
    left_out = 0
    for part in parts:
        try:
            whole = summed([part] if found is None else [found[0], part])
            found = whole, _values(whole)
        except Exception:  # as above
            log.debug("a part is left out", exc_info=True)
            left_out += 1
    log.warning("%d of %d parts of it are left out", left_out, len(parts))
    return found[1] if found is not None else None


def _first(pair: tuple[Key, Part]) -> Key:
    return pair[0]


def _delete(session: Session, rows: Sequence[WindowSum]) -> None:
    bulk.delete(session, WindowSum, _KEY, [_key(row) for row in rows])


def _part(row: WindowRow | WindowSum, windows: int) -> Part:
    sketch = SketchData(sketch_id=row.sketch_id, count=row.sketch_count, sums=row.sketch) if row.sketch_id else None
    return Part(row.started_at, row.ended_at, windows, row.body, sketch)


def _values(part: Part) -> tuple[Any, ...]:
    sketch = part.sketch
    summary = (sketch.sketch_id, sketch.count, sketch.sums) if sketch is not None else ("", 0, b"")
    body = document_text(storable(part.body, "a sum of windows"))
    return part.started_at, part.ended_at, part.windows, body, *summary
