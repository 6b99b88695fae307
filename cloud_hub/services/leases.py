"""Named locks with an end: who holds one acts, and whoever died loses it by time."""

from __future__ import annotations

from sqlmodel import Session

from cloud_hub.clock import lies_ahead
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Lease


def hold_lease(session: Session, name: str, owner: str, now: float, seconds: float) -> bool:
    """Take or keep the lease `name` until `now + seconds`; False while somebody else holds it.

    The caller's transaction must be a writing one. Two that ask at once wait for each other, also the first time.
    One that ends later than a lease of so many seconds can was taken by a clock that ran ahead; it is over.
    """
    lock_name(session, f"lease:{name}")
    row = session.get(Lease, name)
    if row is None:
        row = Lease(name=name, owner=owner, until=0.0)
    elif row.owner != owner and row.until > now and not lies_ahead(row.until, now, seconds):
        return False
    row.owner, row.until = owner, now + seconds
    session.add(row)
    session.flush()
    return True
