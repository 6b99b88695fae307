"""Events about a part of a hub that is in trouble, and reminders of an end. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct

from cloud_hub.events.kinds import Event
from cloud_hub.ports import Part
from fleet.protocol.durations import DAY_S

PATIENCE_S = 60.0  # a restart of the broker or a slow answer is no trouble
REMIND_DAYS = (60, 30, 7, 1)


class Standing(Struct, frozen=True):
    """A part that does not work: since when (Unix seconds), and whether that was told."""

    since: float
    told: bool = False


def looked(
    before: Mapping[str, Standing], parts: Mapping[str, Part], now: float, *, where: str
) -> tuple[dict[str, Standing], list[Event]]:
    """Return the standings of the parts that fail after a look, and the events that tell of them.

    Args:
        before: the outcome of the look before.
        parts: every part of the hub; `unknown` and `starting` change nothing.
        where: the address of the hub, of which there may be several.
    """
    after = dict(before)
    events = []
    for name, part in parts.items():
        known = before.get(name)
        if part.state == "failed":
            known = known or Standing(now)
            since = min(known.since, now)  # the clock may have been set back
            if not known.told and now - since >= PATIENCE_S:
                events.append(_event("hub.trouble", name, part.reason, where, since))
                known = Standing(since, told=True)
            after[name] = Standing(since, known.told)
        elif part.state == "ok" and known is not None:
            if known.told:
                events.append(_event("hub.recovered", name, "it works again", where, known.since))
            del after[name]
    return after, events


def _event(kind: str, part: str, reason: str, where: str, since: float) -> Event:
    message = f"{part} of the hub at {where}: {reason}"
    return Event(kind=kind, subject=part, message=message, data={"part": part, "at": where, "since": since})


def reminder(kind: str, subject: str, end: float, hint: str, now: float) -> tuple[Event, int] | None:
    """Return the reminder of an end, and the one of `REMIND_DAYS` that it belongs to; None while there is time.

    Args:
        kind: of the event.
        subject: the thing that ends.
        end: Unix seconds.
        hint: a remedy.
        now: Unix seconds.
    """
    due = [days for days in REMIND_DAYS if end - now <= days * DAY_S]
    if not due:
        return None
    left, date = (end - now) / DAY_S, datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M UTC")
    when = f"ends in {left:.0f} days, on {date}" if left > 0 else f"ended on {date}"
    return Event(kind=kind, subject=subject, message=f"{subject} {when}; {hint}", data={"ends_at": end}), min(due)
