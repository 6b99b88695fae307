"""The interval at which devices send windows: over such a time groups gather them."""

from __future__ import annotations

from sqlmodel import Session, col, select

from cloud_hub.drift import intake, records
from cloud_hub.store.tables import DriftMonitor, WindowRow

LEARNT_S = 600.0  # how old it may be
LOOKED_AT = 2000  # newest windows of a model that say it
ANOTHER = 1.25  # times longer or shorter: devices are gathered over another time


def learn_slot(session: Session, monitor: DriftMonitor, now: float) -> None:
    """Learn how often devices send windows, since that may change: groups gather them over such a time.

    A release that is too rare among the model's newest windows keeps its time.
    """
    document = monitor.document
    if not monitor.basis or 0 <= now - document.get("slot_at", 0.0) < LEARNT_S:
        return
    monitor.document = {**document, "slot_at": now}
    query = select(WindowRow.device_id, WindowRow.started_at, WindowRow.ended_at, WindowRow.release)
    newest = query.where(WindowRow.model == monitor.model).order_by(col(WindowRow.id).desc()).limit(LOOKED_AT)
    rows = [(name, began, ended) for name, began, ended, of in session.exec(newest) if of == monitor.release]
    slot_s, before = intake.slot_of(rows[::-1]), document["slot_s"]
    if slot_s is None or before / ANOTHER < slot_s < before * ANOTHER:
        return
    monitor.document = {**monitor.document, "slot_s": slot_s}
    records.open_slots_anew(session, monitor.model, monitor.release)
