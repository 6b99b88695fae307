"""Counts what came of audits, and of releases that ran beside those that serve, in the windows of those that serve."""

from __future__ import annotations

from edge_agent.serving.audit import Audited
from edge_agent.serving.slots import Slots
from edge_agent.shadow.child import Answered
from edge_agent.shadow.copies import Copy
from edge_agent.telemetry.open_windows import OpenWindows
from edge_agent.telemetry.shadowed import ShadowTally
from edge_agent.telemetry.windows import Key, pair_key
from fleet.protocol.channel import RolloutRef


class Comparisons:
    """Implements `audit.AuditSink` and `shadow.runner.Sink`: each hears how other answers compare with ours."""

    def __init__(self, slots: Slots, windows: OpenWindows) -> None:
        self._slots, self._windows = slots, windows

    def audited(self, result: Audited) -> None:
        """Count an audit in the window of the release that answered."""
        job = result.job
        release = job.served.release
        key = Key(release.model, release.number, release.variant.name, job.auditor, pair_key(job.pairing))
        builder = self._windows.late(key, len(release.manifest.labels))
        builder.audited(result.agree, zip(result.keys, result.pairs, strict=True))

    def compared(self, copy: Copy, answered: Answered, dropped: int) -> None:
        """Count what a release beside the one that serves made of a request.

        Args:
            copy: the request, and the release that answered the application.
            answered: the other release's answers, row by row.
            dropped: requests since the last comparison for which there was no room.
        """
        tally, served = self._tally(copy.model, copy.variant, copy.rollout), self._slots.find(copy.model)
        tally.count("dropped", dropped)
        tally.rows(answered.keys, answered.agree, answered.broken, failed=bool(answered.failed))
        if served is not None and not answered.failed:
            tally.took(served.typical_s(), answered.run_s)

    def crashed(self, copy: Copy) -> None:
        """Count the end of a process that ran a release beside the one that serves."""
        self._tally(copy.model, copy.variant, copy.rollout).count("crashed")

    def not_compared(self, model: str, rollout: RolloutRef, reason: str) -> None:
        """Keep the reason why a release is not compared here.

        Args:
            model: the name of the model that serves.
            rollout: it names the release that was to be compared.
            reason: a stable word.
        """
        slot = self._slots.slot(model)
        variant = slot.active.release.variant.name if slot is not None and slot.active is not None else ""
        self._tally(model, variant, rollout).reason = reason

    def _tally(self, model: str, variant: str, rollout: RolloutRef) -> ShadowTally:
        return self._windows.of(model, rollout.from_release, variant)[0].shadow(rollout)
