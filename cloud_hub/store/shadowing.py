"""The evidence that windows add to a rollout's shadow stage: each distinct input once, whichever device met it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlmodel import Session, col, select

from cloud_hub.store import bulk
from cloud_hub.store.pairing import MOST_INPUTS, Place, met_inputs
from cloud_hub.store.tables import PairInput, ShadowEvidence
from fleet.protocol.bounds import LARGEST
from fleet.protocol.messages import ShadowCounts
from fleet.protocol.pairing import KEY_BYTES
from fleet.rollouts.shadow import ShadowSeen

INPUTS = ("agree", "differ")
SUMS = ("repeats", "non_finite", "failed", "crashed", "dropped", "old_us", "new_us")
_PLACE = ("rollout", "attempt", "device_id")
_COLUMNS = (*INPUTS, *SUMS, "reason")


def seen(session: Session, rollout: str, attempt: int) -> tuple[ShadowSeen, ...]:
    """Return the counts of every device in the attempt, in the order of their names."""
    columns = [col(getattr(ShadowEvidence, name)) for name in ("device_id", *_COLUMNS)]
    rows = select(*columns).where(ShadowEvidence.rollout == rollout, ShadowEvidence.attempt == attempt)
    found = session.connection().execute(rows.order_by(col(ShadowEvidence.device_id)))
    return tuple(ShadowSeen(**dict(zip(("device_id", *_COLUMNS), row, strict=True))) for row in found)


def add(session: Session, said: Sequence[tuple[str, ShadowCounts, int]]) -> None:
    """Add what devices say of attempts, under the lock of all pairs (`pairing.LOCK`), which the caller holds.

    Args:
        said: in its order, of each the device, its counts, and the most requests that it can have served.
    """
    places = {(counts.rollout, counts.attempt, device) for device, counts, _ in said}
    known = _known(session, places)
    inputs: dict[tuple[str, int], set[int]] = {}
    for _, counts, _ in said:
        inputs.setdefault((counts.rollout, counts.attempt), set()).update(_outcomes(counts))
    met = {attempt: met_inputs(session, attempt, keys) for attempt, keys in inputs.items()}
    new: list[tuple[str, int, int]] = []
    for device, counts, most in said:
        row = known[counts.rollout, counts.attempt, device]
        room = min(most, MOST_INPUTS - row.agree - row.differ)
        fresh = _fresh(counts, room, met[counts.rollout, counts.attempt])
        new += [(counts.rollout, counts.attempt, key) for key in fresh]
        _sum(row, counts, fresh, most)
    bulk.insert(session, PairInput, ("rollout", "attempt", "key"), new)
    rows = [(*place, *(getattr(known[place], name) for name in _COLUMNS)) for place in sorted(known)]
    bulk.upsert(session, ShadowEvidence, (*_PLACE, *_COLUMNS), rows)


def _known(session: Session, places: Collection[Place]) -> dict[Place, ShadowEvidence]:
    listed = bulk.listed(session, ShadowEvidence, _PLACE, places)
    columns = [col(getattr(ShadowEvidence, name)) for name in (*_PLACE, *_COLUMNS)]
    rows = select(*columns).select_from(listed).join(ShadowEvidence, bulk.same(ShadowEvidence, listed))
    names = (*_PLACE, *_COLUMNS)
    found = [dict(zip(names, row, strict=True)) for row in session.connection().execute(rows)]
    empty = {place: ShadowEvidence(rollout=place[0], attempt=place[1], device_id=place[2]) for place in places}
    return empty | {tuple(row[name] for name in _PLACE): ShadowEvidence(**row) for row in found}


def _fresh(counts: ShadowCounts, room: int, met: set[int]) -> dict[int, str]:
    """The inputs that the attempt had not met, with their outcomes; which are left out does not depend on these."""
    outcomes = _outcomes(counts)
    fresh = {key: outcomes[key] for key in sorted(outcomes)[: max(0, room)] if key not in met}
    met.update(fresh)
    return fresh


def _sum(row: ShadowEvidence, counts: ShadowCounts, fresh: dict[int, str], most: int) -> None:
    for name in INPUTS:
        setattr(row, name, getattr(row, name) + sum(outcome == name for outcome in fresh.values()))
    told = counts.agree + counts.differ
    for name in SUMS:
        count = min(getattr(counts, name), most) if not name.endswith("_us") else getattr(counts, name)
        setattr(row, name, min(getattr(row, name) + count, LARGEST))
    row.repeats = min(row.repeats + min(told, most) - min(len(fresh), told, most), LARGEST)
    row.reason = row.reason or counts.reason


def _outcomes(counts: ShadowCounts) -> dict[int, str]:
    """Each input's outcome."""
    keys = [counts.keys[at : at + KEY_BYTES] for at in range(0, len(counts.keys), KEY_BYTES)]
    numbers = [int.from_bytes(key, "little", signed=True) for key in keys]
    return {key: "agree" if place < counts.agree else "differ" for place, key in enumerate(numbers)}
