"""Hears of every request, and counts it in its release's window.

On the request path it only counts and queues; sketches, samples and the disk are the work of `window_writer`,
which hands them to a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edge_agent.in_process.records import LocalRecord
from edge_agent.serving.audit import Job
from edge_agent.serving.outcomes import Outcome, Refused
from edge_agent.serving.policy import Policies
from edge_agent.serving.router import EDGE
from edge_agent.serving.slots import Arrays, Served, Slots
from edge_agent.shadow.copies import Copies
from edge_agent.telemetry.open_windows import OpenWindows
from edge_agent.telemetry.request_metrics import RequestMetrics
from edge_agent.telemetry.sampler import Sampler
from edge_agent.telemetry.windows import Builder, Key, pair_key
from fleet.protocol.errors import REFUSALS

_EDGE = ("edge",)  # the counters of a plain answer


class Recorder:
    """Implements `outcomes.Recorder`; `copies` are those that a release beside the one that serves asks for."""

    def __init__(
        self,
        slots: Slots,
        policies: Policies,
        windows: OpenWindows,
        sampler: Sampler,
        metrics: RequestMetrics,
        *,
        audit: Callable[[Job], None] | None = None,
    ) -> None:
        """Count in `windows` what is heard.

        Args:
            slots: what serves, by model.
            policies: what the channel says of a model.
            windows: those that requests count in.
            sampler: draws the requests that become samples.
            metrics: the counters that `/metrics` shows.
            audit: takes a drawn request, and never waits; None where nobody audits.
        """
        self._slots, self._policies, self._windows, self._sampler = slots, policies, windows, sampler
        self._window = windows.of
        self._offer_audit = audit
        self.copies = Copies()
        self._observe, self._requests = metrics.observe, metrics.requests
        self._fallbacks, self._refusals = metrics.fallbacks, metrics.refusals

    def finished(self, outcome: Outcome) -> None:
        """Count a request, offer its input to the sketch, and perhaps keep a sample."""
        self.finished_together((outcome,))

    def finished_together(self, outcomes: Sequence[Outcome]) -> None:
        """Like `finished`, for several at once, in their order: what they share is looked up once."""
        windows: dict[tuple[str, int, str], tuple[Builder, Served | None]] = {}
        for outcome in outcomes:
            about = outcome.model, outcome.release, outcome.variant
            found = windows.get(about)
            if found is None:
                found = windows[about] = self._window(*about)
            self._finished(outcome, *found)
        channel = self._policies.channel
        if channel is not None:
            for builder, _ in windows.values():
                if builder.counters["requests"] >= channel.telemetry.window_requests:
                    self._windows.full.set()

    def _finished(self, outcome: Outcome, builder: Builder, served: Served | None) -> None:
        verdict, scores = outcome.verdict, outcome.scores
        self._observe(outcome.latency_s, outcome.model, verdict.served_by)
        self._requests(outcome.model, verdict.served_by, "true" if verdict.degraded else "false")
        if verdict is EDGE and not outcome.ready and not outcome.local_failed:  # of nearly all requests
            builder.request(outcome.latency_s, _EDGE)
        else:
            self._not_plain(outcome, builder)
        builder.scores(scores.confidence, scores.classes, scores.values)
        self._draw(builder, outcome, served)
        self._sampler.offer(outcome, served.encoder if served is not None else None)
        if outcome.model in self.copies.wanted:
            self.copies.offer(outcome)

    def _not_plain(self, outcome: Outcome, builder: Builder) -> None:
        """Count a request that did not end as an undisturbed answer of the device's own."""
        if outcome.verdict.fallback_reason:
            self._fallbacks(outcome.verdict.fallback_reason)
        builder.request(outcome.latency_s, _marks(outcome))
        if outcome.refused and outcome.verdict.served_by == "nobody":
            builder.refusal(outcome.refused)
            self._refusals(outcome.model, outcome.refused)

    def refused(self, refused: Refused) -> None:
        """Count a request that was refused, with its reason: nobody answered it."""
        self._observe(refused.latency_s, refused.model, "nobody")
        self._requests(refused.model, "nobody", "false")
        self._refusals(refused.model, refused.word)
        builder, _ = self._window(refused.model, refused.release, refused.variant)
        builder.request(refused.latency_s, _refusal_marks(refused.newly))
        builder.refusal(refused.word, refused.tensor, refused.place)

    def audit(self, served: Served, inputs: Arrays, answers: tuple[Any, ...]) -> None:
        """Queue an audit of a drawn request."""
        entry = self._policies.entry(served.release.model)
        if self._offer_audit is None or entry.audit.auditor is None:
            return
        slot = self._slots.slot(served.release.model)
        pairing = slot.pairing if slot is not None and slot.active is served else None
        shadow = slot.previous if slot is not None and pairing is not None else None
        self._offer_audit(Job(served, shadow, pairing, entry.audit.auditor, inputs, answers))

    def local(self, record: LocalRecord) -> None:
        """Count a request that an application answered in its own process, for the window and for probation.

        Who may write to the socket, the group `edgeloop`, is believed: where all inference is in process,
        nobody else could say that a new release fails.
        """
        slot = self._slots.slot(record.model)
        active = slot.active.release if slot is not None and slot.active is not None else None
        if slot is None or active is None or (active.number, active.variant.name) != (record.release, record.variant):
            return  # of a release that is not in service here: nobody to attribute it to
        auditor = self._policies.entry(record.model).audit.auditor
        key = Key(record.model, record.release, record.variant, auditor, pair_key(slot.pairing))
        assert slot.active is not None
        builder = self._windows.current(key, slot.active)
        by = "nobody" if record.refused or record.failed else "edge"
        self._observe(record.latency_s, record.model, by)
        self._requests(record.model, by, "false")
        if record.refused:
            word = record.refused if record.refused in REFUSALS else "other"
            slot.active.refuse(record.detail or word, newly=record.newly)
            self._refusals(record.model, word)
            builder.request(record.latency_s, ["local", *_refusal_marks(record.newly)])
            builder.refusal(word, record.tensor, record.place)
            return
        slot.active.count(failed=record.failed)
        builder.request(record.latency_s, ("local", "failed", "local_failed") if record.failed else ("local", "edge"))
        builder.scores(record.confidence, record.classes, record.values)

    def offered(self, outcome: Outcome, requests: float, rows: float) -> None:
        """Sketch a request that has been counted, and perhaps keep it; it stands for `requests` ones of `rows` rows."""
        builder, served = self._window(outcome.model, outcome.release, outcome.variant)
        self._draw(builder, outcome, served, requests * rows)
        self._sampler.offer(outcome, served.encoder if served is not None else None, requests)
        if outcome.model in self.copies.wanted:
            self.copies.offer(outcome)

    def _draw(self, builder: Builder, outcome: Outcome, served: Served | None, weight: float = 1.0) -> None:
        rows = outcome.inputs
        if not rows:
            return
        if served is None or not served.batched:
            batched = self._sampler.batched(outcome)
            rows = {name: array if batched(name) else array[None] for name, array in rows.items()}
        self._windows.draw(builder, rows, weight)


def _marks(outcome: Outcome) -> list[str]:
    verdict = outcome.verdict
    marks: list[str] = [verdict.served_by] if verdict.served_by != "nobody" else []
    if verdict.degraded:
        marks.append("degraded")
    if verdict.deferred:
        marks.append("deferred")
    if outcome.ready:
        marks.append("ready")
    if outcome.local_failed:
        marks.append("local_failed")
    if verdict.served_by == "nobody":
        marks += _refusal_marks(newly=False) if outcome.refused else ["failed"]
    return marks


def _refusal_marks(newly: bool) -> list[str]:
    return ["failed", "refused", "newly_refused"] if newly else ["failed", "refused"]
