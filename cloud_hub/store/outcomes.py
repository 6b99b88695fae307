"""The counts of windows and the draws of labels that rollouts keep, and their end."""

from __future__ import annotations

from sqlalchemy import delete, exists, or_, tuple_
from sqlmodel import Session, col, select

from cloud_hub.store.tables import RolloutLabel, RolloutRow, RolloutSignals


def forget(session: Session, before: float, most: int) -> int:
    """Delete the counts and draws of one rollout that ended before a moment (Unix seconds), or is gone: at most
    `most` labels. Return 0 when there is no such rollout, else `most`: there may be more.

    Args:
        session: an open one; the caller commits.
        before: Unix seconds.
        most: labels to delete at once.
    """
    alive = or_(col(RolloutRow.ended_at).is_(None), col(RolloutRow.ended_at) >= before)
    kept = exists().where(col(RolloutRow.id) == RolloutSignals.rollout, alive)
    ended = session.exec(select(RolloutSignals.rollout).where(~kept).limit(1)).first()
    if ended is None:
        return 0
    of_it = col(RolloutLabel.rollout) == ended
    found = session.exec(select(RolloutLabel.attempt, RolloutLabel.sample).where(of_it).limit(most)).all()
    key = tuple_(col(RolloutLabel.attempt), col(RolloutLabel.sample))
    session.connection().execute(delete(RolloutLabel).where(of_it, key.in_([tuple(row) for row in found])))
    if len(found) < most:  # every attempt that has drawn labels has said how far
        session.connection().execute(delete(RolloutSignals).where(col(RolloutSignals.rollout) == ended))
    return most
