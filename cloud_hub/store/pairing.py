"""The evidence that a window's audited pairs add to their rollout: each distinct input once, on whatever device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete, select

from cloud_hub.store import bulk
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import PairEvidence, PairInput
from fleet.protocol.bounds import LARGEST
from fleet.protocol.pairing import KEY_BYTES
from fleet.protocol.telemetry import PairCounts

OUTCOMES = ("both", "only_old", "only_new", "neither")
COUNTS = (*OUTCOMES, "repeats", "unnamed", "answered", "local_failed", "newly_refused")
LOCK = "pairs"
MOST_PER_S = 10_000  # requests of one device and model that are believed
MOST_INPUTS = 2000  # that one device brings to an attempt: far more than any proof needs

Place = tuple[str, int, str]  # a rollout, its attempt and a device
Attempt = tuple[str, int]
_PLACE = ("rollout", "attempt", "device_id")


def servable(started_at: float, ended_at: float) -> int:
    """The most requests that a device can have served between two moments (Unix seconds), a day apart at most."""
    return int(MOST_PER_S * min(max(1.0, ended_at - started_at), 86_400.0))


def make_rows(session: Session, rollout: str, attempt: int, device_ids: Sequence[str]) -> None:
    """Make the evidence of devices that have none: ingest and the engine may both do so at the same moment."""
    rows = [PairEvidence(rollout=rollout, attempt=attempt, device_id=name).model_dump() for name in device_ids]
    if rows:
        session.connection().execute(_insert(session)(PairEvidence).on_conflict_do_nothing(), rows)


def forget(session: Session, rollout: str) -> None:
    """Let the inputs of a rollout go that has ended."""
    lock_name(session, LOCK)
    session.execute(delete(PairInput).where(col(PairInput.rollout) == rollout))


class Evidence:
    """The evidence of devices on attempts: read, added to in memory, and written together.

    The caller holds the lock of all pairs (`LOCK`) until its transaction ends: hubs that take the same inputs in, each
    in its own order, would wait for each other, as would the rollout engine, and a rollout that ends meanwhile would
    leave inputs behind. The devices are locked, too, so that nobody else adds to their evidence.

    Args:
        places: the devices' evidence that is added to.
        pairs: all that is going to be counted.
    """

    def __init__(self, session: Session, places: Collection[Place], pairs: Sequence[PairCounts]) -> None:
        columns = [col(getattr(PairEvidence, name)) for name in (*_PLACE, *COUNTS)]
        place = bulk.listed(session, PairEvidence, _PLACE, places)
        rows = select(*columns).select_from(place).outerjoin(PairEvidence, bulk.same(PairEvidence, place))
        self._counts = {place: dict.fromkeys(COUNTS, 0) for place in places}
        for row in session.connection().execute(rows):
            if row[0] is not None:
                self._counts[tuple(row[:3])] = dict(zip(COUNTS, row[3:], strict=True))
        self._inputs: dict[Attempt, set[int]] = {}
        for one in pairs:
            self._inputs.setdefault((one.rollout, one.attempt), set()).update(_outcomes(one))
        self._met = {attempt: met_inputs(session, attempt, inputs) for attempt, inputs in self._inputs.items()}
        self._new: list[tuple[str, int, int]] = []

    def count(self, device_id: str, pairs: PairCounts, audited: int) -> None:
        """Count the inputs that the attempt has not met yet.

        Pairs without keys (of agents of 0.1) cannot be told from repeats: they are counted as `unnamed`, and prove
        nothing. Neither do more pairs than the window's rows that were audited.

        Args:
            audited: rows that the window's device can have had audited.
        """
        place = (pairs.rollout, pairs.attempt, device_id)
        told = sum(getattr(pairs, name) for name in OUTCOMES)
        if not pairs.keys or told > audited:
            self.add(place, {"unnamed": told})
            return
        have = sum(self._counts[place][name] for name in OUTCOMES)
        found = self._remember(pairs, max(0, MOST_INPUTS - have))
        self.add(place, found | {"repeats": pairs.repeats + told - sum(found.values())})

    def add(self, place: Place, counts: Mapping[str, int]) -> None:
        """Add to a device's evidence; no sum is beyond what a column holds."""
        row = self._counts[place]
        for name, count in counts.items():
            row[name] = min(row[name] + count, LARGEST)

    def keep(self, session: Session) -> None:
        """Write it; what the rollout engine has noted of a device stays."""
        bulk.insert(session, PairInput, ("rollout", "attempt", "key"), self._new)
        rows = [(*place, *counts.values(), "") for place, counts in sorted(self._counts.items())]
        bulk.upsert(session, PairEvidence, (*_PLACE, *COUNTS, "reason"), rows, only_new=("reason",))

    def _remember(self, pairs: PairCounts, most: int) -> dict[str, int]:
        outcome, met = _outcomes(pairs), self._met[pairs.rollout, pairs.attempt]
        found = dict.fromkeys(OUTCOMES, 0)
        for key in sorted(outcome)[:most]:  # keys are hashes: what is left out does not depend on the outcome
            if key not in met:
                met.add(key)
                found[outcome[key]] += 1
                self._new.append((pairs.rollout, pairs.attempt, key))
        return found


def _outcomes(pairs: PairCounts) -> dict[int, str]:
    """Each input's outcome."""
    keys = [pairs.keys[at : at + KEY_BYTES] for at in range(0, len(pairs.keys), KEY_BYTES)]
    outcome: dict[int, str] = {}
    for name in OUTCOMES:
        these, keys = keys[: getattr(pairs, name)], keys[getattr(pairs, name) :]
        outcome |= {int.from_bytes(key, "little", signed=True): name for key in these}
    return outcome


def met_inputs(session: Session, attempt: Attempt, inputs: Collection[int]) -> set[int]:
    """Return the inputs that an attempt has met already."""
    rows = select(PairInput.key).where(PairInput.rollout == attempt[0], PairInput.attempt == attempt[1])
    return set(session.exec(rows.where(bulk.one_of(session, PairInput.key, inputs)))) if inputs else set()


def _insert(session: Session) -> Any:
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
