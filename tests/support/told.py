"""The events that a hub tells."""

from __future__ import annotations

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.store.tables import EventRow


def told(hub: Hub, noun: str = "") -> list[tuple[str, str]]:
    """Kind and subject of every event whose kind begins with `noun`, in their order."""
    with hub.reading() as session:
        found = session.exec(select(EventRow).order_by(col(EventRow.number)))
        return [(row.kind, row.subject) for row in found if row.kind.startswith(noun)]
