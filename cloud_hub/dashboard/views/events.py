"""Events in the words of the pages. Pure."""

from __future__ import annotations

import json

from cloud_hub.dashboard import places
from fleet.api.events import DeliveryInfo, EventInfo, Try


def place_of(event: EventInfo) -> str:
    """The page of what an event is about; empty where it has none."""
    noun = event.kind.partition(".")[0]
    if noun in ("alarm", "drift"):
        return places.DRIFT
    if noun in ("key", "certificate"):
        return places.ACCESS
    page = {"rollout": places.rollout, "job": places.job, "device": places.device}.get(noun)
    return page(event.subject) if page else ""


def badge_of(delivery: DeliveryInfo) -> str:
    """`delivered`, `dead` or `waiting`, with the tries that it took where it was not the first."""
    return f"{delivery.state}, {delivery.tries} tries" if delivery.tries > 1 else delivery.state


def last_word(delivery: DeliveryInfo) -> str:
    """Return the fault of the last try; empty where it had none, or nothing was tried."""
    return came_of(delivery.log[-1]) if delivery.log and delivery.state != "delivered" else ""


def came_of(tried: Try) -> str:
    """Return the result of a try, in words."""
    if not tried.status and not tried.error:
        return "acknowledged"  # by a broker, which has no statuses
    if not tried.status:
        return tried.error  # perhaps nobody was asked: its target is gone, or the hub was restored
    status = f"answered with status {tried.status}"
    return f"{status}: {tried.error}" if tried.error else status


def facts_of(event: EventInfo) -> str:
    """An event's facts as a program gets them."""
    return json.dumps(event.data, indent=2, ensure_ascii=False, sort_keys=True) if event.data else ""
