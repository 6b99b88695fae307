"""Shows what is committed and not shown, left behind by a store that did not answer or a hub that ended in between.

It is asked of the database and not of this process's memory, so that any of several hubs makes up for another.
"""

from __future__ import annotations

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_hub.store.tables import Metadata
from cloud_hub.trust.transaction import Transactions

AGAIN = 24  # looks, a minute


class Unshown:
    """A watch for a store that is behind the database, from one look to the next.

    Who has just committed shows it within a moment, so a version is left behind only when it is met a second time. One
    that was seen in the store is looked for again after `AGAIN` looks: a bucket may be made again from an older copy.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._met = self._shown = self._trusted = 0

    def left_behind(self) -> bool:
        """Return whether the newest version was committed before the last look and is not shown; UnreachableError."""
        latest = self._latest()
        if latest != self._met:
            self._met = latest
            return False
        if self._shown < latest or self._trusted >= AGAIN:
            self._shown, self._trusted = self._transactions.shown_version(), 0
        self._trusted += 1
        return self._shown < latest

    def _latest(self) -> int:
        with Session(self._transactions.engine.execution_options(edgeloop_read=True)) as session:
            newest = select(func.max(col(Metadata.version))).where(col(Metadata.role) == "timestamp")
            return session.exec(newest).one() or 0
