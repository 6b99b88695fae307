"""Remembers which trace a spooled record belongs to, so that its message carries it on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

MOST = 64  # records; an agent has at most `gobackn.WINDOW` in flight
NOTHING: Mapping[str, str] = {}


class Trails:
    """The headers of W3C's trace context by the spool's number of a record.

    They are kept in memory alone: a record that is sent after a restart carries none. A record that is sent again
    carries its own again.
    """

    def __init__(self, carried: Callable[[], Mapping[str, str]] = dict) -> None:
        """Ask `carried` for the headers of the current trace (`Tracer.carried`)."""
        self._carried = carried
        self._kept: OrderedDict[int, Mapping[str, str]] = OrderedDict()

    def note(self, record: int) -> None:
        """Remember that a record was made in the current trace, if there is one."""
        carried = self._carried()
        if not carried:
            return
        self._kept[record] = carried
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def of(self, record: int) -> Mapping[str, str]:
        """Return the headers of a record's trace; empty without one."""
        return self._kept.get(record, NOTHING)
