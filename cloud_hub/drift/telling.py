"""The news of an alarm when it is raised or grows: in the audit log, and to the receivers of events."""

from __future__ import annotations

from sqlmodel import Session

from cloud_hub.context import Hub
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import record
from cloud_hub.store.tables import Alarm


def tell(hub: Hub, session: Session, alarm: Alarm, *, new: bool) -> None:
    """Record an alarm in the caller's transaction; people are told of `new` ones only, which tell more on request."""
    session.flush()
    reason = str(alarm.detail["reason"])
    said = {"reason": reason, "release": alarm.release}
    hub.audit(session, "drift", "alarm.raise" if new else "alarm.extend", alarm.model, said)
    if new:
        facts = {"alarm": alarm.id, "alarm_kind": alarm.detail.get("kind", "inputs"), "release": alarm.release}
        message = f"alarm {alarm.id} about {alarm.model}, release {alarm.release}: {reason}"
        record(session, Event(kind="alarm.raised", subject=alarm.model, message=message, data=facts), hub.clock())
