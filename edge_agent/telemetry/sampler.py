"""Draws the requests that become samples, by the channel's shares and the hub's wishes, and brings them to the disk.

On the request path it only draws and copies. Whether an input is outlying, the redaction hook and the disk are the
work of `store`, in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from edge_agent.errors import NotFoundError, SpoolError
from edge_agent.serving.outcomes import Outcome
from edge_agent.serving.policy import Policies
from edge_agent.serving.router import threshold
from edge_agent.serving.slots import Slots
from edge_agent.telemetry.samples import (
    Draft,
    SampleStore,
    class_of,
    is_outlying,
    make_sample,
    may_keep,
    reason_to_keep,
)
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.wanted import Draw, Want, read_want
from fleet.protocol.confidence import should_defer
from fleet.protocol.drift_encoder import Encoder
from fleet.protocol.durations import DAY_S
from fleet.protocol.messages import SampleReason
from fleet.protocol.task import NO_CLASS

log = logging.getLogger(__name__)

MAX_DRAFTS = 512
WANTED = "wanted"  # the fact in the spool that keeps what was asked for
REASONS: dict[str, SampleReason] = {"random": "random", "candidate": "outlying"}


class Drafted(NamedTuple):
    """A draft and what sketches its release's inputs."""

    draft: Draft
    encoder: Encoder | None


class Sampler:
    """Draws samples. `rng` is uniform in [0, 1)."""

    def __init__(
        self,
        slots: Slots,
        policies: Policies,
        store: SampleStore,
        spool: Spool,
        *,
        clock: Callable[[], float],
        rng: Callable[[], float],
    ) -> None:
        self._slots = slots
        self._policies = policies
        self._store = store
        self._spool = spool
        self._clock = clock
        self._rng = rng
        self._drafts: list[Drafted] = []
        self._draws: dict[str, Draw[Drafted]] = {want.model: Draw(want, rng) for want in _kept_wants(spool)}
        self._saved = self._wants()
        self.dropped = 0

    def offer(self, outcome: Outcome, encoder: Encoder | None, weight: float = 1.0) -> None:
        """Perhaps keep a request; it stands for `weight` ones."""
        task, answers, theirs = outcome.task, outcome.scores.answers, outcome.cloud_answers
        if not outcome.inputs or not outcome.release or task is None or not outcome.outputs:
            return
        if task.compares and not answers:  # a task that compares nothing has samples without an answer
            return
        sampling, draw = self._policies.entry(outcome.model).sampling, self._draws.get(outcome.model)
        if not sampling.enabled and draw is None:
            return
        chance = self._rng() / weight
        if draw is None and not may_keep(sampling, chance):
            return
        disagreeing = bool(answers and theirs) and not task.agrees(answers[0], theirs[0])
        uncertain = self._uncertain(outcome)
        reason = reason_to_keep(sampling, chance, uncertain=uncertain, disagreeing=disagreeing)
        if reason is not None:
            self._add(self._drafted(outcome, encoder, reason))
        if draw is not None and reason != "random":  # one that is drawn at random anyway is not drawn twice
            self._offer_wanted(
                draw, outcome, encoder, "disagreeing" if disagreeing else "uncertain" if uncertain else None, weight
            )

    def _offer_wanted(
        self, draw: Draw[Drafted], outcome: Outcome, encoder: Encoder | None, worth: SampleReason | None, weight: float
    ) -> None:
        now = self._clock()
        self._close(draw, now)
        place = draw.place(now, valued=worth is not None, weight=weight)
        if place is not None:
            reason = REASONS.get(place) or worth or "random"
            draw.hold(place, self._drafted(outcome, encoder, reason))

    def want(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Begin to draw what the hub asks for, in place of what it asked before; returns what it is answered.

        Raises:
            UsageError: a number that is none. NotFoundError: the model is not served here.
        """
        want = read_want(arguments, self._clock())
        if self._slots.slot(want.model) is None and not self._policies.knows(want.model):
            raise NotFoundError(f"model {want.model!r} is not served here", subject=want.model)
        self._draws[want.model] = Draw(want, self._rng)
        return {
            "model": want.model,
            "samples": want.samples,
            "max_bytes": want.max_bytes,
            "until": want.until,
            "sampling": self._policies.entry(want.model).sampling.enabled,
            "redacted": self._store.redacts,
        }

    def take(self, now: float) -> list[Drafted]:
        """Take the drafts that are to be stored now; slots that are over are closed."""
        for model, draw in list(self._draws.items()):
            self._close(draw, now)
            if why := draw.over(now):
                log.info("model %s: %d samples were kept for the hub; %s", model, draw.want.kept, why)
                del self._draws[model]
        drafts, self._drafts = self._drafts, []
        return drafts

    def store(self, drafts: list[Drafted], now: float) -> int:
        """Redact and store; returns how many were kept. Call it in a thread, one at a time."""
        kept = 0
        by_model: dict[str, list[Any]] = {}
        for draft, encoder in drafts:
            if draft.reason != "outlying" or is_outlying(draft.inputs, encoder):
                by_model.setdefault(draft.model, []).append(make_sample(draft))
        for model, samples in by_model.items():
            kept += self._store.put(samples, max_bytes=self._policies.entry(model).sampling.max_spool_bytes)
        channel = self._policies.channel
        days = [entry.sampling.retention_days for entry in channel.models.values()] if channel is not None else []
        if days:
            self._store.expire(now - min(days) * DAY_S)
        self._save()
        return kept

    def _save(self) -> None:
        wants = self._wants()
        if wants != self._saved:
            self._spool.keep({WANTED: wants})
            self._saved = wants

    def _wants(self) -> str:
        return msgspec.json.encode([draw.want for draw in list(self._draws.values())]).decode()

    def _close(self, draw: Draw[Drafted], now: float) -> None:
        for drafted in draw.due(now, _size):
            self._add(drafted)

    def _add(self, drafted: Drafted) -> None:
        if len(self._drafts) >= MAX_DRAFTS:
            self.dropped += 1
        else:
            self._drafts.append(drafted)

    def _drafted(self, outcome: Outcome, encoder: Encoder | None, reason: SampleReason) -> Drafted:
        batched = self.batched(outcome)
        task, answers, theirs = outcome.task, outcome.scores.answers, outcome.cloud_answers
        assert task is not None
        draft = Draft(
            model=outcome.model,
            release=outcome.release,
            variant=outcome.variant,
            at=self._clock(),
            reason=reason,
            inputs={name: (a[:1] if batched(name) else a).copy() for name, a in outcome.inputs.items()},
            outputs={name: a[:1] if batched(name) else a for name, a in outcome.outputs.items()},
            confidence=next(iter(outcome.scores.confidence), 0.0),
            prediction=class_of(task, answers[0]) if answers else NO_CLASS,
            cloud_prediction=class_of(task, theirs[0]) if theirs else None,
        )
        return Drafted(draft, encoder)

    def batched(self, outcome: Outcome) -> Callable[[str], bool]:
        """Return whether a tensor's first axis counts requests: the whole of any other one is one request's."""
        slot = self._slots.slot(outcome.model)
        if slot is None or slot.active is None:
            return lambda name: True
        manifest = slot.active.release.manifest
        whole = {t.name for t in (*manifest.inputs, *manifest.outputs) if t.shape[:1] != (-1,)}
        return lambda name: name not in whole

    def _uncertain(self, outcome: Outcome) -> bool:
        if outcome.verdict.deferred:
            return True
        slot = self._slots.slot(outcome.model)
        deferral = slot.active.release.variant.deferral if slot is not None and slot.active is not None else None
        limit = threshold(self._policies.entry(outcome.model).routing, deferral)
        sure = outcome.scores.confidence
        return limit is not None and bool(sure) and should_defer(sure[0], limit)


def _size(drafted: Drafted) -> int:
    arrays = (*drafted.draft.inputs.values(), *drafted.draft.outputs.values())
    return sum(sum(map(len, found.flat)) if found.dtype.kind == "O" else found.nbytes for found in arrays)


def _kept_wants(spool: Spool) -> list[Want]:
    """Read the hub's wishes from before this start; none where the disk does not say."""
    try:
        return msgspec.json.decode(spool.fact(WANTED) or "[]", type=list[Want])
    except (SpoolError, msgspec.DecodeError) as error:
        log.warning("which samples the hub has asked for is not known any more: %s", error)
        return []
