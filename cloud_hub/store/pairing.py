"""The evidence that a window's audited pairs add to their rollout: each distinct input once, on whatever device.

Devices that name the same input settle together what came of it; see `fleet.rollouts.claims`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, col, delete, select

from cloud_hub.store import bulk
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import PairEvidence, PairInput, PairShared
from cloud_hub.store.types import document_text
from fleet.protocol.bounds import LARGEST
from fleet.protocol.pairing import KEY_BYTES
from fleet.protocol.telemetry import PairCounts
from fleet.rollouts.claims import OUTCOMES, SHARED, Claims, SharedInputs

COUNTS = (
    *(*OUTCOMES, "repeats", "unnamed", "answered", "local_failed", "newly_refused"),
    *("claimed", "own_old", "own_new", "checked", "outvoted", "disputed"),
)
LOCK = "pairs"
MOST_PER_S = 10_000  # requests of one device and model that are believed
MOST_INPUTS = 2000  # of which one device says something in an attempt: far more than any proof needs

Place = tuple[str, int, str]  # a rollout, its attempt and a device
Attempt = tuple[str, int]
_ATTEMPT = ("rollout", "attempt")
_PLACE = (*_ATTEMPT, "device_id")


def servable(started_at: float, ended_at: float) -> int:
    """The most requests that a device can have served between two moments (Unix seconds), a day apart at most."""
    return int(MOST_PER_S * min(max(1.0, ended_at - started_at), 86_400.0))


def make_rows(session: Session, rollout: str, attempt: int, device_ids: Sequence[str]) -> None:
    """Make the evidence of devices that have none: ingest and the engine may both do so at the same moment.

    Args:
        session: an open one; the caller commits.
        rollout: its id.
        attempt: of the rollout.
        device_ids: the devices.
    """
    rows = [PairEvidence(rollout=rollout, attempt=attempt, device_id=name).model_dump() for name in device_ids]
    if rows:
        session.connection().execute(_insert(session)(PairEvidence).on_conflict_do_nothing(), rows)


def forget(session: Session, rollout: str, *, sums: bool = False) -> None:
    """Let the inputs of a rollout go that has ended; with `sums` what several devices said of them as well.

    Args:
        session: an open one; the caller commits.
        rollout: its id.
        sums: let go of what several devices said of its inputs as well.
    """
    lock_name(session, LOCK)
    session.execute(delete(PairInput).where(col(PairInput.rollout) == rollout))
    if sums:
        session.execute(delete(PairShared).where(col(PairShared.rollout) == rollout))


def shared_inputs(session: Session, rollout: str, attempt: int) -> SharedInputs:
    """Return the counts of the inputs of an attempt that several devices have met.

    Args:
        session: an open one.
        rollout: its id.
        attempt: of the rollout.
    """
    names = SharedInputs.__struct_fields__
    columns = [col(getattr(PairShared, name)) for name in names]
    found = select(*columns).where(PairShared.rollout == rollout, PairShared.attempt == attempt)
    row = session.connection().execute(found).first()
    return SharedInputs() if row is None else SharedInputs(**dict(zip(names, row, strict=True)))


class AttemptClaims:
    """The claims of devices on the inputs of attempts: read once, added to in memory, and written together.

    The caller holds the lock of all pairs.

    Args:
        inputs: all that are going to be claimed, by attempt.
    """

    def __init__(self, session: Session, inputs: Mapping[Attempt, Collection[int]]) -> None:
        self._claims = {attempt: Claims(_claims_of(session, attempt, keys)) for attempt, keys in inputs.items()}

    def add(self, attempt: Attempt, device: str, outcomes: Mapping[int, str], most: int) -> tuple[int, int]:
        """Take in what a device says of inputs; see `Claims.add`."""
        return self._claims[attempt].add(device, outcomes, most)

    def keep(self, session: Session) -> dict[Place, dict[str, int]]:
        """Write the claims and the counts of inputs that several devices have met; return what they add to those of
        devices."""
        attempts = sorted(self._claims.items())
        rows = [(*at, key, document_text(claims)) for at, found in attempts for key, claims in found.changed()]
        bulk.upsert(session, PairInput, (*_ATTEMPT, "key", "claims"), rows)
        adds = {attempt: found.adds() for attempt, found in attempts}
        shared = {attempt: found.pop(SHARED) for attempt, found in adds.items() if SHARED in found}
        names = SharedInputs.__struct_fields__
        sums = read_sums(session, PairShared, _ATTEMPT, names, shared)
        for attempt, counts in sums.items():
            add_to(counts, shared[attempt])
        bulk.upsert(session, PairShared, (*_ATTEMPT, *names), [(*at, *sums[at].values()) for at in sorted(sums)])
        return {(*attempt, device): counts for attempt, found in adds.items() for device, counts in found.items()}


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
        self._counts = read_sums(session, PairEvidence, _PLACE, COUNTS, places)
        inputs: dict[Attempt, set[int]] = {}
        for one in pairs:
            inputs.setdefault((one.rollout, one.attempt), set()).update(_outcomes(one))
        self._taken = Counter[Place]()  # claims of this batch
        self._claims = AttemptClaims(session, inputs)

    def count(self, device_id: str, pairs: PairCounts, audited: int) -> None:
        """Count what the device says of inputs.

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
        room = MOST_INPUTS - self._counts[place]["claimed"] - self._taken[place]
        new, taken = self._claims.add(place[:2], device_id, _outcomes(pairs), room)
        self._taken[place] += taken
        self.add(place, {"repeats": pairs.repeats + told - new})

    def add(self, place: Place, counts: Mapping[str, int]) -> None:
        """Add to a device's evidence; no sum is beyond what a column holds."""
        add_to(self._counts[place], counts)

    def keep(self, session: Session) -> None:
        """Write it; what the rollout engine has noted of a device stays."""
        changes = self._claims.keep(session)
        self._counts |= read_sums(session, PairEvidence, _PLACE, COUNTS, changes.keys() - self._counts.keys())
        for place, counts in changes.items():
            self.add(place, counts)
        rows = [(*place, *counts.values(), "") for place, counts in sorted(self._counts.items())]
        bulk.upsert(session, PairEvidence, (*_PLACE, *COUNTS, "reason"), rows, only_new=("reason",))


def read_sums(
    session: Session, kind: type[SQLModel], key: Sequence[str], names: Sequence[str], places: Collection[Any]
) -> dict[Any, dict[str, int]]:
    """Return the counts of a table's rows by their keys; of keys without a row they are 0.

    Args:
        session: an open one.
        kind: the table.
        key: the names of its key's columns.
        names: of the counts.
        places: the keys to read.
    """
    found = {place: dict.fromkeys(names, 0) for place in places}
    if not found:
        return found
    listed = bulk.listed(session, kind, tuple(key), list(found))
    columns = [col(getattr(kind, name)) for name in (*key, *names)]
    rows = select(*columns).select_from(listed).join(kind, bulk.same(kind, listed))
    for row in session.connection().execute(rows):
        found[tuple(row[: len(key)])] = dict(zip(names, row[len(key) :], strict=True))
    return found


def add_to(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add to counts; none is beyond what a column holds, or below 0."""
    for name, count in more.items():
        counts[name] = max(0, min(counts[name] + count, LARGEST))


def _outcomes(pairs: PairCounts) -> dict[int, str]:
    """Each input's outcome."""
    keys = [pairs.keys[at : at + KEY_BYTES] for at in range(0, len(pairs.keys), KEY_BYTES)]
    outcome: dict[int, str] = {}
    for name in OUTCOMES:
        these, keys = keys[: getattr(pairs, name)], keys[getattr(pairs, name) :]
        outcome |= {int.from_bytes(key, "little", signed=True): name for key in these}
    return outcome


def _claims_of(session: Session, attempt: Attempt, inputs: Collection[int]) -> dict[int, dict[str, str]]:
    """Return the claims on those of the inputs that an attempt has met already."""
    if not inputs:
        return {}
    rows = select(PairInput.key, PairInput.claims).where(
        PairInput.rollout == attempt[0], PairInput.attempt == attempt[1]
    )
    found = session.exec(rows.where(bulk.one_of(session, PairInput.key, inputs)))
    return {key: dict(claims) for key, claims in found}


def _insert(session: Session) -> Any:
    return postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
