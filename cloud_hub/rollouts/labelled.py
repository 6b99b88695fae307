"""Labels as evidence of a rollout: samples drawn at random from both releases at the same time, judged by people.

Only samples that came since the attempt began count, by the hub's clock, of devices in the rollout's scope: the
release's own, and those of the release before from whoever still served it. Which samples get a label is the
operators' choice; they are to choose of both releases alike, and what is drawn by value says nothing of the whole.

A label is drawn once, in the order of labels, and kept as it was then: bets that were placed are not placed again. So
who labels a sample again, or deletes it, changes no pair, neither its own nor one that came after.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec
from sqlalchemy import or_, text
from sqlmodel import Session, col, func, select

from cloud_hub.store import bulk
from cloud_hub.store.tables import DRAWN_LABEL, Device, Release, RolloutLabel, RolloutSignals, SampleRow
from fleet import tasks
from fleet.protocol.manifest import decode_manifest
from fleet.rollouts.machine import Plan, Progress
from fleet.rollouts.matching import JudgedAnswer, Matched, match

MOST = 50_000  # labels of a release that count
BATCH = 2000  # labels of one look: the rollout's row is locked meanwhile
WEEK_S, DAYS = 7 * 86_400.0, 7
COLUMNS = ("rollout", "attempt", "sample", "number", "new", "device_id", "good")


class LabelPosition(msgspec.Struct, frozen=True):
    """The position of a label: its time (Unix seconds) and its sample. Each label's time is after all earlier ones'."""

    at: float
    sample: str = ""


class Draw(msgspec.Struct, frozen=True):
    """One draw: an outcome of the new release, or of the old one."""

    new: bool
    outcome: JudgedAnswer


def tells(session: Session, model: str, release: int) -> bool:
    """Tell whether a label and the answer in a sample's row show if the answer was right: of classes they do."""
    row = session.get(Release, (model, release))
    if row is None or not row.manifest:
        return False
    return tasks.of_manifest(decode_manifest(row.manifest)).name == "classification"


def per_day(session: Session, channel: str, model: str, now: float) -> float:
    """Count the randomly drawn samples of a channel's devices that got a label in a day of the last week."""
    query = select(func.count()).select_from(SampleRow).join(Device, col(Device.id) == col(SampleRow.device_id))
    found = session.exec(
        query.where(SampleRow.model == model, Device.channel == channel, text(DRAWN_LABEL)).where(
            col(SampleRow.labelled_at) > now - WEEK_S, col(SampleRow.labelled_at) <= now
        )
    )
    return float(found.one()) / DAYS


def matched(
    session: Session, plan: Plan, progress: Progress, devices: Collection[str], drawn: list[Draw], now: float
) -> Matched:
    """Draw the labels that came since the last look; the outcomes of both releases in an attempt, matched in the order
    of their labels.

    Args:
        session: one that holds the lock of the rollout's row.
        devices: those of the cohort, of the control, and those that have left the cohort.
        drawn: what the caller knows to be drawn in the attempt, empty at first; the rest is added to it.
    """
    if not tells(session, plan.model, plan.release):
        return Matched()
    drawn += _kept(session, plan.id, progress.attempt, len(drawn))
    _draw(session, plan, progress, devices, drawn, now)
    return match((one.outcome for one in drawn if one.new), (one.outcome for one in drawn if not one.new))


def _kept(session: Session, rollout: str, attempt: int, after: int) -> list[Draw]:
    """Read the earlier draws, without the first ones."""
    rows = select(RolloutLabel.new, RolloutLabel.device_id, RolloutLabel.good)
    rows = rows.where(RolloutLabel.rollout == rollout, RolloutLabel.attempt == attempt)
    rows = rows.where(RolloutLabel.number >= after).order_by(col(RolloutLabel.number))
    return [Draw(new, JudgedAnswer(device, good)) for new, device, good in session.exec(rows)]


def _draw(
    session: Session, plan: Plan, progress: Progress, devices: Collection[str], drawn: list[Draw], now: float
) -> None:
    """Draw what was labelled since, and keep it."""
    row = session.get(RolloutSignals, (plan.id, progress.attempt))
    since = progress.stage_times[0] if progress.stage_times else progress.started_at
    before = LabelPosition(since) if row is None else msgspec.convert(row.document, LabelPosition)
    found = labels_after(session, plan.model, before, since)
    if not found:
        return
    row = row or RolloutSignals(rollout=plan.id, attempt=progress.attempt, updated_at=now)
    last = found[-1]
    row.document, row.updated_at = msgspec.to_builtins(LabelPosition(last.labelled_at or 0.0, last.id)), now
    session.add(row)
    fresh = list(_outcomes(session, plan, _undrawn(session, plan.id, progress.attempt, found), devices, drawn))
    rows = [
        (plan.id, progress.attempt, sample, number, one.new, one.outcome.device, one.outcome.right)
        for number, (sample, one) in enumerate(fresh, len(drawn))
    ]
    bulk.insert(session, RolloutLabel, COLUMNS, rows)
    drawn += [one for _, one in fresh]


def labels_after(session: Session, model: str, place: LabelPosition, since: float) -> Sequence[SampleRow]:
    """Return the next labels of a model, in their order, of samples that came `since` then: `BATCH` at most."""
    at, sample = col(SampleRow.labelled_at), col(SampleRow.id)
    rows = select(SampleRow).where(SampleRow.model == model, text(DRAWN_LABEL), at >= place.at)
    rows = rows.where(or_(at > place.at, sample > place.sample), SampleRow.received_at >= since)
    return session.exec(rows.order_by(at, sample).limit(BATCH)).all()


def _undrawn(session: Session, rollout: str, attempt: int, found: Sequence[SampleRow]) -> list[SampleRow]:
    """Those that were not drawn before: a sample that is labelled again comes once more."""
    names = bulk.listed(session, RolloutLabel, ("sample",), [(row.id,) for row in found])
    known = select(RolloutLabel.sample).join(names, bulk.same(RolloutLabel, names))
    known = known.where(RolloutLabel.rollout == rollout, RolloutLabel.attempt == attempt)
    drawn = set(session.exec(known))
    return [row for row in found if row.id not in drawn]


def _outcomes(
    session: Session, plan: Plan, rows: Sequence[SampleRow], devices: Collection[str], drawn: Sequence[Draw]
) -> Iterator[tuple[str, Draw]]:
    """The samples that count, each with its outcome."""
    counts = {new: sum(one.new is new for one in drawn) for new in (True, False)}
    sides = {plan.release: True, plan.from_release: False}
    known = {number: session.get(Release, (plan.model, number)) for number in sides}
    task = {n: tasks.of_manifest(decode_manifest(row.manifest)) for n, row in known.items() if row and row.manifest}
    for row in rows:
        if row.device_id not in devices or row.release not in task or counts[sides[row.release]] >= MOST:
            continue
        right = task[row.release].right(row.prediction, row.label)
        if right is not None:
            counts[sides[row.release]] += 1
            yield row.id, Draw(sides[row.release], JudgedAnswer(row.device_id, right >= 0.5))
