"""Telemetry as evidence of a rollout: windows of both releases since the attempt began (`fleet.rollouts.signals`).

What was counted is kept in the database, since windows go after some days. Of a large fleet up to `MOST_WATCHED` of
each release are looked at: those that come first into the cohort, and those that come last.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.store.tables import RolloutSignals, WindowRow
from fleet.protocol.resolve import cohort_place
from fleet.rollouts.forecast import MOST_WATCHED
from fleet.rollouts.machine import Plan, Progress
from fleet.rollouts.matching import Matched
from fleet.rollouts.signals import WINDOWS, Habit, Signal, State, count, habit_of, signal_of
from fleet.rollouts.stage_facts import StageFacts

HABITS = 20  # that are made at one look: each reads a device's last windows
BATCH = 2000  # windows of one look


def matched(session: Session, plan: Plan, progress: Progress, facts: StageFacts, upto: int, now: float) -> Matched:
    """Count what came since the last look; all pairs of the attempt.

    Args:
        session: one that holds the lock of the rollout's row.
        upto: the number of the last window to count.
    """
    row, (in_cohort, in_control) = session.get(RolloutSignals, (plan.id, progress.attempt)), facts.arms()
    if row is None and not in_cohort:
        return Matched()  # it waits for its start or its window; what is usual then is not what is usual now
    if row is None:
        row = RolloutSignals(rollout=plan.id, attempt=progress.attempt, updated_at=now)
        state = State(first=upto, last=upto)
    else:
        state = msgspec.convert(row.document, State)
    state.at(progress.stage)
    cohort, control = _some(plan.salt, in_cohort, last=False), _some(plan.salt, in_control, last=True)
    _learn(session, plan, state, [*cohort, *control])
    windows, state.last = _windows(session, plan, (state.last, upto), cohort, control)
    count(state, windows, cohort)
    row.document, row.updated_at = msgspec.to_builtins(state), now
    session.add(row)
    session.flush()
    return state.matched


def _some(salt: str, names: Iterable[str], *, last: bool) -> frozenset[str]:
    """Those that come into the cohort first, or last."""
    order = sorted(names, key=lambda name: cohort_place(salt, name), reverse=last)
    return frozenset(order[:MOST_WATCHED])


def _learn(session: Session, plan: Plan, state: State, names: Iterable[str]) -> None:
    """Make the habits of some devices that have none yet."""
    new = sorted(set(names) - state.habits.keys())[:HABITS]
    for name in new:
        state.habits[name] = _habit(session, plan, name, state.first)


def _habit(session: Session, plan: Plan, device: str, upto: int) -> Habit | None:
    rows = (
        select(WindowRow.body)
        .where(WindowRow.device_id == device, WindowRow.model == plan.model)
        .where(WindowRow.release == plan.from_release, col(WindowRow.id) <= upto)
        .order_by(col(WindowRow.id).desc())
        .limit(WINDOWS)
    )
    return habit_of([found for body in session.exec(rows) if (found := signal_of(body)) is not None])


def _windows(
    session: Session, plan: Plan, span: tuple[int, int], cohort: frozenset[str], control: frozenset[str]
) -> tuple[list[tuple[str, Signal]], int]:
    """Windows after a number and up to another, of the cohort's under the new release and of the control's under the
    old one; and the number of the last one that was looked at."""
    after, upto = span
    number, names = col(WindowRow.id), sorted(cohort | control)
    rows = session.exec(
        select(WindowRow.id, WindowRow.device_id, WindowRow.release, WindowRow.body)
        .where(WindowRow.model == plan.model, number > after, number <= upto)
        .where(col(WindowRow.device_id).in_(names))
        .order_by(number)
        .limit(BATCH)
    ).all()
    found = []
    for _, device, release, body in rows:
        expected = plan.release if device in cohort else plan.from_release
        if release == expected and (signal := signal_of(body)) is not None:
            found.append((device, signal))
    return found, (rows[-1][0] or 0) if len(rows) == BATCH else max(after, upto)
