"""What a window's audited pairs add to the evidence of its rollout: each distinct input once, whoever met it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete

from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Device, PairEvidence, PairInput, RolloutRow
from fleet.protocol.messages import PairCounts
from fleet.protocol.pairing import KEY_BYTES

OUTCOMES = ("both", "only_old", "only_new", "neither")
LOCK = "pairs"
MOST_PER_S = 10_000  # requests of one device and model that are believed
MOST_INPUTS = 2000  # that one device brings to an attempt: far more than any proof needs


def servable(started_at: float, ended_at: float) -> int:
    """The most requests that a device can have served between two moments (Unix seconds), a day apart at most."""
    return int(MOST_PER_S * min(max(1.0, ended_at - started_at), 86_400.0))


def counts(session: Session, device: Device, pairs: PairCounts) -> bool:
    """Whether the pairs are of a rollout that goes on, in its present attempt, and on the device's own channel.

    Holds the lock of all pairs until the transaction ends: hubs that take the same inputs in, each in its own order,
    would wait for each other, and a rollout that ends meanwhile would leave inputs behind.
    """
    lock_name(session, LOCK)
    row = session.get(RolloutRow, pairs.rollout, populate_existing=True)
    if row is None or row.ended_at is not None or row.channel != device.channel:
        return False
    return (pairs.attempt, pairs.old, pairs.new) == (row.attempt, row.from_release, row.release)


def row_of(session: Session, rollout: str, attempt: int, device_id: str) -> PairEvidence:
    """A device's evidence, made where there is none: ingest and the engine may both do so at the same moment."""
    key = (rollout, attempt, device_id)
    found = session.get(PairEvidence, key)
    if found is None:
        empty = PairEvidence(rollout=rollout, attempt=attempt, device_id=device_id).model_dump()
        session.connection().execute(_insert(session)(PairEvidence).values(**empty).on_conflict_do_nothing())
        found = session.get(PairEvidence, key, populate_existing=True)
        assert found is not None
    return found


def forget(session: Session, rollout: str) -> None:
    """Let the inputs of a rollout go that has ended."""
    lock_name(session, LOCK)
    session.execute(delete(PairInput).where(col(PairInput.rollout) == rollout))


def count(session: Session, before: PairEvidence | None, pairs: PairCounts, audited: int) -> dict[str, int]:
    """Remember the inputs that the attempt has not seen yet; returns what is to be added to the device's evidence.

    Pairs without keys (of agents of 0.1) cannot be told from repeats: they are counted as `unnamed`, and prove nothing.
    Neither do more pairs than the window's rows that were audited.

    Args:
        before: the device's evidence so far, None without any.
        audited: rows that the window's device can have had audited.
    """
    told = sum(getattr(pairs, name) for name in OUTCOMES)
    if not pairs.keys or told > audited:
        return {"unnamed": told}
    have = 0 if before is None else sum(getattr(before, name) for name in OUTCOMES)
    found = _remember(session, pairs, max(0, MOST_INPUTS - have))
    return found | {"repeats": pairs.repeats + told - sum(found.values())}


def _remember(session: Session, pairs: PairCounts, most: int) -> dict[str, int]:
    keys = [pairs.keys[at : at + KEY_BYTES] for at in range(0, len(pairs.keys), KEY_BYTES)]
    outcome: dict[int, str] = {}
    for name in OUTCOMES:
        these, keys = keys[: getattr(pairs, name)], keys[getattr(pairs, name) :]
        outcome |= {int.from_bytes(key, "little", signed=True): name for key in these}
    taken = sorted(outcome)[:most]  # keys are hashes, so that what is left out does not depend on the outcome
    rows = [{"rollout": pairs.rollout, "attempt": pairs.attempt, "key": key} for key in taken]
    found = dict.fromkeys(OUTCOMES, 0)
    if rows:
        fresh = _insert(session)(PairInput).values(rows).on_conflict_do_nothing().returning(col(PairInput.key))
        for key in session.connection().execute(fresh).scalars():
            found[outcome[key]] += 1
    return found


def _insert(session: Session) -> Any:
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
