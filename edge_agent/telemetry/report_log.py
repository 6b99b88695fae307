"""Keeps the device's reports in the spool until the hub has them: where models stand, what it is, what it answers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from msgspec import Struct

from edge_agent.errors import SpoolError
from edge_agent.telemetry.spool import Spool
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import TELEMETRY_LIMIT, AgentReport, CommandResult, ModelReport

log = logging.getLogger(__name__)

LARGEST = TELEMETRY_LIMIT - 512  # bytes of a record's body: the envelope needs its share


class ReportLog:
    """Implements `ports.Reporter`, and keeps the answers to commands. A full disk loses a report and stops nothing."""

    def __init__(
        self,
        spool: Spool,
        clock: Callable[[], float],
        spooled: Callable[[], None] = lambda: None,
        traced: Callable[[int], None] = lambda record: None,
    ) -> None:
        """Append to `spool`.

        Args:
            spool: holds the records until the hub's receipt.
            clock: seconds since 1970; a record says when it was made.
            spooled: hears that there is a new record.
            traced: hears a new record's number while the trace that it belongs to is current (`Trails.note`).
        """
        self._spool, self._clock, self._spooled, self._traced = spool, clock, spooled, traced

    def model(self, report: ModelReport) -> None:
        """Spool a transition durably before the caller goes on; what the spool took last is not repeated.

        So an agent may say at every start where each model stands: a kill between a transition and its
        report, or a disk that refused the report, costs the hub nothing.
        """
        mark = f"reported:{report.model}"
        digest = hashlib.sha256(encode_msgpack(report)).hexdigest()
        try:
            known = self._spool.fact(mark) == digest
        except SpoolError as error:
            log.warning("model %s is reported once more: %s", report.model, error)
            known = False
        if not known:
            self._append("model", report, {mark: digest})

    def agent(self, report: AgentReport) -> None:
        """Spool what the device is."""
        self._append("agent", report)

    def result(self, result: CommandResult) -> None:
        """Spool the answer to a command; one that no message can hold is answered with a failure that says so."""
        try:
            size = len(encode_msgpack(result))
            why = f"the answer has {size} bytes, and a message takes {LARGEST}" if size > LARGEST else ""
        except UnicodeEncodeError:  # such as the name of a file that is no text
            why = "the answer holds what is no text"
        if why:
            result = CommandResult(id=result.id, ok=False, kind=result.kind, detail=why)
        self._append("result", result)

    def _append(self, kind: str, body: Struct, facts: dict[str, str] | None = None) -> None:
        try:
            record = self._spool.append(kind, encode_msgpack(body), self._clock(), facts)
        except SpoolError as error:
            log.error("a %s report is lost: %s", kind, error)  # a full disk must not stop an update
            return
        self._traced(record)
        self._spooled()
