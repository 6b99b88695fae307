"""The times at which the hub heard its devices: while it or its broker is down, their silence says nothing.

Ingest notes every few seconds, while its link to the broker is up, that it takes messages; a longer gap is an outage.
Each shard has a note of its own: hubs share the devices, and one that hears hides nothing of one that does not.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlmodel import Session, col, select

from cloud_hub.store import bulk
from cloud_hub.store.tables import Setting
from fleet.protocol import topics

KEY = "ingest-heard"  # of all shards, by a hub of an earlier release; `:` and a digit of one
NOTE_S = 5.0  # between two notes
DEAF_S = 60.0  # without a note: longer is an outage, and no pause of a busy hub


class Hearing(Struct, frozen=True, kw_only=True):
    """The moment when messages were taken last, and the last outage's two ends (Unix seconds; 0 without one)."""

    noted_at: float
    deaf_from: float = 0.0
    deaf_until: float = 0.0

    def deaf_s(self, since: float, until: float) -> float:
        """Seconds of the outage between two moments."""
        return max(0.0, min(until, self.deaf_until) - max(since, self.deaf_from))


def after(before: Hearing, now: float) -> Hearing:
    """Return the hearing as it is `now`; a clock that was set back ends an outage in the present, and makes none."""
    if now - before.noted_at > DEAF_S:
        return Hearing(noted_at=now, deaf_from=before.noted_at, deaf_until=now)
    return replace(before, noted_at=now, deaf_from=min(before.deaf_from, now), deaf_until=min(before.deaf_until, now))


def known(session: Session, now: float) -> dict[str, Hearing]:
    """Return the hearing of each shard as it is known `now`, by its digit.

    An outage that goes on lasts until now. Nothing was ever missed where nothing was noted.
    """
    wanted = col(Setting.key).in_([KEY, *map(_key, topics.DIGITS)])
    rows = session.exec(select(Setting.key, Setting.value).where(wanted))
    noted = {key: after(msgspec.json.decode(value, type=Hearing), now) for key, value in rows}
    every = noted.get(KEY, Hearing(noted_at=now))
    return {digit: noted.get(_key(digit), every) for digit in topics.DIGITS}


def deaf_until(session: Session, now: float) -> float:
    """Return when every shard was heard again after its last outage, Unix seconds; 0 without one."""
    return max(heard.deaf_until for heard in known(session, now).values())


def note(session: Session, now: float, digits: Iterable[str] = topics.DIGITS) -> None:
    """Note that messages of these shards are taken.

    Args:
        session: an open one.
        now: Unix seconds.
        digits: the shards, by their hexadecimal digits.
    """
    before = known(session, now)
    rows = [(_key(digit), msgspec.json.encode(before[digit]).decode()) for digit in sorted(digits)]
    bulk.upsert(session, Setting, ("key", "value"), rows)


def _key(digit: str) -> str:
    return f"{KEY}:{digit}"
