"""The evidence that windows add to a rollout's shadow stage: each distinct input once, whichever device met it.

Devices that name the same input settle together what came of it, as they do of an audited pair; see `pairing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from sqlmodel import Session, col, select

from cloud_hub.store import bulk
from cloud_hub.store.pairing import MOST_INPUTS, AttemptClaims, Place, shared_inputs
from cloud_hub.store.tables import ShadowEvidence
from fleet.protocol.bounds import LARGEST
from fleet.protocol.messages import ShadowCounts
from fleet.protocol.pairing import KEY_BYTES
from fleet.rollouts.claims import SharedInputs
from fleet.rollouts.shadow import AGREE, DIFFER, ShadowSeen

SAME_NAME = ("claimed", "checked", "outvoted", "disputed")
COLUMN_OF = {AGREE: "agree", DIFFER: "differ", "own_old": "own_differ", **{name: name for name in SAME_NAME}}
SUMS = ("repeats", "non_finite", "failed", "crashed", "dropped", "old_us", "new_us")
_PLACE = ("rollout", "attempt", "device_id")
_COLUMNS = (*COLUMN_OF.values(), *SUMS, "reason")


def seen(session: Session, rollout: str, attempt: int) -> tuple[tuple[ShadowSeen, ...], SharedInputs]:
    """Return the counts of every device in the attempt, in the order of their names, and those of the inputs that
    several have met.

    Args:
        session: an open one.
        rollout: its id.
        attempt: of the rollout.
    """
    columns = [col(getattr(ShadowEvidence, name)) for name in ("device_id", *_COLUMNS)]
    rows = select(*columns).where(ShadowEvidence.rollout == rollout, ShadowEvidence.attempt == attempt)
    found = session.connection().execute(rows.order_by(col(ShadowEvidence.device_id)))
    told = tuple(ShadowSeen(**dict(zip(("device_id", *_COLUMNS), row, strict=True))) for row in found)
    return told, shared_inputs(session, rollout, attempt)


def add(session: Session, said: Sequence[tuple[str, ShadowCounts, int]]) -> None:
    """Add what devices say of attempts, under the lock of all pairs (`pairing.LOCK`), which the caller holds.

    Args:
        said: in its order, of each the device, its counts, and the most requests that it can have served.
    """
    known = _known(session, {(counts.rollout, counts.attempt, device) for device, counts, _ in said})
    inputs: dict[tuple[str, int], set[int]] = {}
    for _, counts, _ in said:
        inputs.setdefault((counts.rollout, counts.attempt), set()).update(_outcomes(counts))
    claims, claimed = AttemptClaims(session, inputs), Counter[Place]()
    for device, counts, most in said:
        attempt = counts.rollout, counts.attempt
        row = known[*attempt, device]
        room = min(most, MOST_INPUTS - row.claimed - claimed[*attempt, device])
        new, taken = claims.add(attempt, device, _outcomes(counts), room)
        claimed[*attempt, device] += taken
        _sum(row, counts, new, most)
    changes = claims.keep(session)
    known |= _known(session, changes.keys() - known.keys())
    for place, changed in changes.items():
        for which, count in changed.items():
            name = COLUMN_OF[which]
            setattr(known[place], name, max(0, getattr(known[place], name) + count))
    rows = [(*place, *(getattr(known[place], name) for name in _COLUMNS)) for place in sorted(known)]
    bulk.upsert(session, ShadowEvidence, (*_PLACE, *_COLUMNS), rows)


def _known(session: Session, places: Collection[Place]) -> dict[Place, ShadowEvidence]:
    if not places:
        return {}
    listed = bulk.listed(session, ShadowEvidence, _PLACE, places)
    columns = [col(getattr(ShadowEvidence, name)) for name in (*_PLACE, *_COLUMNS)]
    rows = select(*columns).select_from(listed).join(ShadowEvidence, bulk.same(ShadowEvidence, listed))
    names = (*_PLACE, *_COLUMNS)
    found = [dict(zip(names, row, strict=True)) for row in session.connection().execute(rows)]
    empty = {place: ShadowEvidence(rollout=place[0], attempt=place[1], device_id=place[2]) for place in places}
    return empty | {tuple(row[name] for name in _PLACE): ShadowEvidence(**row) for row in found}


def _sum(row: ShadowEvidence, counts: ShadowCounts, new: int, most: int) -> None:
    told = counts.agree + counts.differ
    for name in SUMS:
        count = min(getattr(counts, name), most) if not name.endswith("_us") else getattr(counts, name)
        setattr(row, name, min(getattr(row, name) + count, LARGEST))
    row.repeats = min(row.repeats + min(told, most) - min(new, told, most), LARGEST)
    row.reason = row.reason or counts.reason


def _outcomes(counts: ShadowCounts) -> dict[int, str]:
    """Each input's outcome."""
    keys = [counts.keys[at : at + KEY_BYTES] for at in range(0, len(counts.keys), KEY_BYTES)]
    numbers = [int.from_bytes(key, "little", signed=True) for key in keys]
    return {key: AGREE if place < counts.agree else DIFFER for place, key in enumerate(numbers)}
