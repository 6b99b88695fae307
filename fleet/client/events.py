"""Events out."""

from __future__ import annotations

from collections.abc import Iterator

from fleet.api.events import EventInfo, EventPage, NewTest, Resend, TargetInfo, TargetPage
from fleet.client.calls import Calls, path_of


class EventCalls(Calls):
    """Calls about what people are told."""

    def events(
        self, *, limit: int | None = None, since: float = 0.0, kind: str = "", state: str = ""
    ) -> Iterator[EventInfo]:
        """Yield the events that match, newest first.

        Args:
            limit: at most so many; None for all.
            since: Unix seconds; events of then or later.
            kind: of the event; empty for any.
            state: of one of its deliveries; empty for any.
        """
        query = [("since", repr(since))] * bool(since)
        query += [(key, value) for key, value in (("kind", kind), ("state", state)) if value]
        return self._items("/events", EventPage, query, limit=limit)

    def event(self, event: str) -> EventInfo:
        """One event with its deliveries."""
        return self._get(path_of("events", event), EventInfo)

    def resend_event(self, event: str, target: str = "") -> EventInfo:
        """Try the dead deliveries of an event anew, or the one to `target`."""
        return self._post(path_of("events", event, "resend"), Resend(target=target), EventInfo)

    def event_targets(self) -> list[TargetInfo]:
        """The targets of the hub's configuration."""
        return list(self._items("/event-targets", TargetPage))

    def test_event_target(self, target: str) -> EventInfo:
        """Send a test to a target."""
        return self._post("/event-tests", NewTest(target=target), EventInfo)
