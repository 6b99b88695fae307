"""When the hub heard its devices, and when it could not: while it or its broker is down, their silence says nothing.

Ingest notes every few seconds, while its link to the broker is up, that it takes messages; a longer gap is an outage.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlmodel import Session

from cloud_hub.store.tables import Setting

KEY = "ingest-heard"
NOTE_S = 5.0  # between two notes
DEAF_S = 60.0  # without a note: longer is an outage, and no pause of a busy hub


class Hearing(Struct, frozen=True, kw_only=True):
    """When messages were taken last, and the last outage, from when until when (Unix seconds; 0 without one)."""

    noted_at: float
    deaf_from: float = 0.0
    deaf_until: float = 0.0

    def deaf_s(self, since: float, until: float) -> float:
        """Seconds of the outage between two moments."""
        return max(0.0, min(until, self.deaf_until) - max(since, self.deaf_from))


def after(before: Hearing, now: float) -> Hearing:
    """What is known `now`; a clock that was set back ends an outage in the present, and makes none."""
    if now - before.noted_at > DEAF_S:
        return Hearing(noted_at=now, deaf_from=before.noted_at, deaf_until=now)
    return replace(before, noted_at=now, deaf_from=min(before.deaf_from, now), deaf_until=min(before.deaf_until, now))


def known(session: Session, now: float) -> Hearing:
    """What is known `now`; an outage that goes on lasts until now. Nothing was ever missed where nothing was noted."""
    row = session.get(Setting, KEY)
    return Hearing(noted_at=now) if row is None else after(msgspec.json.decode(row.value, type=Hearing), now)


def note(session: Session, now: float) -> None:
    """Note that messages are taken."""
    session.merge(Setting(key=KEY, value=msgspec.json.encode(known(session, now)).decode()))
