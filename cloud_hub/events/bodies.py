"""The body of an event in a target's format. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from cloud_hub.event_settings import Format


class Happened(Protocol):
    """An event as it is kept; `at` in Unix seconds."""

    id: str
    at: float
    kind: str
    subject: str
    message: str
    data: dict[str, Any]


def body(form: Format, event: Happened, hub: str) -> bytes:
    """JSON: `standard` is the `type`, `timestamp`, `data` of Standard Webhooks, `slack` a message of Slack's.

    Args:
        hub: the address at which people reach the hub.
    """
    if form == "slack":
        text = f"*{escaped(event.kind)}* {escaped(event.message)}\n<{escaped(hub)}|{event.id}>"
        return msgspec.json.encode({"text": text})
    facts = {**event.data, "id": event.id, "subject": event.subject, "message": event.message, "hub": hub}
    moment = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode({"type": event.kind, "timestamp": moment, "data": facts})


def escaped(text: str) -> str:
    """Text that is no markup to Slack: neither a link nor a call of everybody (`<!channel>`)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
