"""Hears of every request and report, and keeps what the hub shall know.

On the request path it only counts and queues; sketches, samples and the disk are the work of `run`,
which hands them to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from edge_agent.errors import AgentError, SpoolError
from edge_agent.in_process.records import LocalRecord
from edge_agent.serving.audit import Audited, Job
from edge_agent.serving.metrics import Metrics
from edge_agent.serving.outcomes import Outcome, Refused
from edge_agent.serving.policy import Policies
from edge_agent.serving.router import EDGE
from edge_agent.serving.slots import Arrays, Served, Slots
from edge_agent.shadow.child import Answered
from edge_agent.shadow.copies import Copies, Copy
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.sampler import Drafted, Sampler
from edge_agent.telemetry.samples import SampleStore
from edge_agent.telemetry.shadowed import ShadowTally
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.windows import Builder, Key, Windows, pair_key
from fleet.protocol.channel import RolloutRef
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import REFUSALS, ProtocolError
from fleet.protocol.messages import TELEMETRY_LIMIT, AgentReport, CommandResult, ModelReport
from fleet.protocol.telemetry import Window

log = logging.getLogger(__name__)

TICK_S = 1.0
_EDGE = ("edge",)  # the counters of a plain answer
LARGEST = TELEMETRY_LIMIT - 512  # bytes of a record's body: the envelope needs its share


class Recorder:
    """Implements `engine.Observer`, `audit.AuditSink`, `shadow.runner.Sink` and `ports.Reporter`."""

    def __init__(
        self,
        slots: Slots,
        policies: Policies,
        spool: Spool,
        samples: SampleStore,
        budget: Budget,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
        audit: Callable[[Job], None] | None = None,
        spooled: Callable[[], None] = lambda: None,
        sampled: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep in `spool` and `samples` what is heard, within `budget`.

        Args:
            slots: what serves, by model; policies: what the channel says of it.
            metrics: where counters and gauges are registered.
            clock: seconds since 1970. rng: uniform in [0, 1).
            audit: takes a drawn request, and never waits; None where nobody audits.
            spooled, sampled: hear of new records, and of new samples.
        """
        self._slots = slots
        self._policies = policies
        self._spool = spool
        self._sampler = Sampler(slots, policies, samples, spool, clock=clock, rng=rng)
        self._budget = budget
        self._clock = clock
        self._windows = Windows(rng)
        self._closed: list[Builder] = []
        self._flush = asyncio.Event()
        self._offer_audit, self._spooled, self._sampled = audit, spooled, sampled
        self.copies = Copies()
        self.settle: Callable[[], None] = lambda: None  # brings in what is finished and not yet told (`Afterwards`)
        self._observe = metrics.histogram("edge_inference_duration_seconds", "Whole request.", ("model", "served_by"))
        self._requests = metrics.counter(
            "edge_inference_requests_total", "Answered and failed requests.", ("model", "served_by", "degraded")
        )
        self._fallbacks = metrics.counter(
            "edge_fallback_requests_total", "Requests that did not end as a plain local answer.", ("reason",)
        )
        self._refusals = metrics.counter(
            "edge_refused_requests_total",
            "Requests that a release does not take, among those of nobody.",
            ("model", "reason"),
        )
        metrics.gauge("edge_model_info", "Active release.", ("model", "release", "variant"), self._info)
        metrics.gauge("edge_outbox_messages", "Records waiting for a receipt.", (), lambda: [((), len(spool))])
        metrics.gauge("edge_outbox_lost", "Records a full spool gave up.", (), lambda: [((), spool.lost)])

    # ---- request path -------------------------------------------------------------------------

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
                    self._flush.set()

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

    def audited(self, result: Audited) -> None:
        """Count an audit in the window of the release that answered; keep a disagreeing sample."""
        job = result.job
        release = job.served.release
        key = Key(release.model, release.number, release.variant.name, job.auditor, pair_key(job.pairing))
        builder = self._windows.late(key, self._clock(), len(release.manifest.labels))
        builder.audited(result.agree, zip(result.keys, result.pairs, strict=True))

    def compared(self, copy: Copy, answered: Answered, dropped: int) -> None:
        """Count what a release beside the one that serves made of a request."""
        tally, served = self._tally(copy.model, copy.variant, copy.rollout), self._slots.find(copy.model)
        tally.count("dropped", dropped)
        tally.rows(answered.keys, answered.agree, answered.broken, failed=bool(answered.failed))
        if served is not None and not answered.failed:
            tally.took(served.typical_s(), answered.run_s)

    def crashed(self, copy: Copy) -> None:
        """Count the end of a process that ran a release beside the one that serves."""
        self._tally(copy.model, copy.variant, copy.rollout).count("crashed")

    def not_compared(self, model: str, rollout: RolloutRef, reason: str) -> None:
        """Say why a release is not compared here."""
        slot = self._slots.slot(model)
        variant = slot.active.release.variant.name if slot is not None and slot.active is not None else ""
        self._tally(model, variant, rollout).reason = reason

    def _tally(self, model: str, variant: str, rollout: RolloutRef) -> ShadowTally:
        return self._window(model, rollout.from_release, variant)[0].shadow(rollout)

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
        builder = self._builder(key, slot.active)
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

    def _window(self, model: str, release: int, variant: str) -> tuple[Builder, Served | None]:
        """The window of a request that a release answered or refused (0: none was here), and the release, while it
        serves."""
        slot = self._slots.slot(model)
        served = slot.active if slot is not None else None
        if served is not None and served.release.number != release:
            served = None
        pairing = pair_key(slot.pairing) if slot is not None and release else None
        key = Key(model, release, variant, self._policies.entry(model).audit.auditor, pairing)
        return self._builder(key, served), served

    def _builder(self, key: Key, served: Served | None) -> Builder:
        now = self._clock()
        if served is None:  # an answer of the release that was just replaced, or of the cloud alone
            return self._windows.late(key, now, 0)
        manifest = served.release.manifest
        builder, replaced = self._windows.open(key, now, len(manifest.labels), served.encoder, manifest.inputs)
        self._closed += [old for old in replaced if not old.empty]
        return builder

    # ---- reports ------------------------------------------------------------------------------

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

    def want_samples(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Draw the samples that the hub asks for; see `Sampler.want`."""
        return self._sampler.want(arguments)

    def _append(self, kind: str, body: Struct, facts: dict[str, str] | None = None) -> None:
        try:
            self._spool.append(kind, encode_msgpack(body), self._clock(), facts)
        except SpoolError as error:
            log.error("a %s report is lost: %s", kind, error)  # a full disk must not stop an update
            return
        self._spooled()

    # ---- background ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Close windows and store samples until cancelled; then store what is open."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._flush.wait()
                self._flush.clear()
                await self._step()
        finally:
            self.settle()
            self._closed += self._windows.take_all()
            builders, self._closed = self._closed, []
            now = self._clock()
            self._store(builders, self._sampler.take(now), now)

    async def flush(self) -> None:
        """Close every window now."""
        self.settle()
        self._closed += self._windows.take_all()
        await self._step()

    async def _step(self) -> None:
        self.settle()
        now = self._clock()
        channel = self._policies.channel
        if channel is not None:
            telemetry = channel.telemetry
            self._closed += self._windows.due(now, telemetry.window_s, telemetry.window_requests)
        builders, self._closed = self._closed, []
        drafts = self._sampler.take(now)
        stored, kept = await asyncio.to_thread(self._store, builders, drafts, now)
        if stored:
            self._spooled()
        if kept:
            self._sampled()

    def _store(self, builders: list[Builder], drafts: list[Drafted], now: float) -> tuple[int, int]:
        stored = kept = 0
        try:
            for builder in builders:
                stored += self._store_window(builder.close(now))
            kept = self._sampler.store(drafts, now)
            self._budget.save()
        except (AgentError, ProtocolError) as error:
            log.error("windows or samples are lost: %s", error)
        return stored, kept

    def _store_window(self, window: Window) -> int:
        body = encode_msgpack(window)
        less = ("sketch", {"sketch": None, "outlying": -1}), ("quantiles", {"values": ()}), ("inputs", {"inputs": ()})
        for what, changes in less:
            if len(body) > LARGEST:
                log.warning("a window of model %s has %d bytes; its %s is left out", window.model, len(body), what)
                window = msgspec.structs.replace(window, **changes)
                body = encode_msgpack(window)
        self._spool.append("window", body, window.ended_at)
        return 1

    def _info(self) -> list[tuple[tuple[str, ...], float]]:
        rows: list[tuple[tuple[str, ...], float]] = []
        for name in self._slots.names():
            slot = self._slots.slot(name)
            if slot is not None and slot.active is not None:
                release = slot.active.release
                rows.append(((name, str(release.number), release.variant.name), 1.0))
        return rows


def show_audits(metrics: Metrics, dropped: Callable[[], int]) -> None:
    """Let `metrics` show how many audits have no outcome, as `dropped` counts them."""
    metrics.gauge("edge_audits_dropped", "Audits without an outcome.", (), lambda: [((), dropped())])


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
