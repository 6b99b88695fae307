"""Releases whose drift is not watched at present, in part or at all, and why: what no look has succeeded in since."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import HubError
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import record
from cloud_hub.store.tables import DriftTrouble, Model

log = logging.getLogger(__name__)
MOST = 500  # characters of what is said
TOLD = 5  # looks that have failed in a row before people are told
Key = tuple[str, int]  # model and release


class Failures:
    """The failures of one look: `tried` says how often windows were to be counted."""

    def __init__(self) -> None:
        self.tried = 0
        self.errors: list[Exception] = []
        self.words: dict[Key, str] = {}

    def run(self, key: Key, what: str, step: Callable[[], object], *, counts: bool = True) -> bool:
        """Run a step for a release; return whether it succeeded. A failure of one is no trouble of the others."""
        self.tried += counts
        try:
            step()
            return True
        except Exception as error:
            known = isinstance(error, HubError)
            where = key[0] + (f", release {key[1]}," if key[1] else "")
            log.warning("%s of %s are not watched now: %s", what, where, error, exc_info=not known)
            self.errors.append(error)
            before = f"{self.words[key]}; " if key in self.words else ""
            self.words[key] = f"{before}{what}: {error if known else repr(error)}"
            return False


def note(hub: Hub, failed: Mapping[Key, str], looked_at: Collection[Key]) -> None:
    """Write down which releases could not be watched in a look, and forget those that could.

    Args:
        failed: by model and release, what failed; release 0 is the model as a whole.
        looked_at: all that the look was about; of others, which nobody has any more, nothing is said.
    """
    with hub.reading() as session:
        known = {(row.model, row.release) for row in session.exec(select(DriftTrouble))}
    if not known and not failed:
        return
    with hub.session() as session:
        for key in known - failed.keys():
            row = session.get(DriftTrouble, key)
            if row is not None:
                session.delete(row)
        for model, release in sorted(failed.keys() & set(looked_at)):
            if session.get(Model, model) is None:  # it was deleted meanwhile
                continue
            row = session.get(DriftTrouble, (model, release))
            row = row or DriftTrouble(model=model, release=release, since=hub.clock(), looks=0, words="")
            row.looks, row.words = row.looks + 1, failed[model, release][:MOST]
            session.add(row)
            if row.looks == TOLD:
                of = f"{model}, release {release}" if release else model
                said = f"drift of {of} is not watched, {TOLD} looks failed: {row.words}"
                record(
                    session,
                    Event(kind="drift.unwatched", subject=model, message=said, data={"release": release}),
                    hub.clock(),
                )


def words_of(session: Session) -> dict[Key, str]:
    """Return the words about each trouble, by model and release."""
    found = {}
    for row in session.exec(select(DriftTrouble).order_by(col(DriftTrouble.model), col(DriftTrouble.release))):
        since = datetime.fromtimestamp(row.since, UTC).strftime("%Y-%m-%d %H:%M")
        found[row.model, row.release] = f"since {since} UTC {row.looks} looks failed: {row.words}"
    return found
