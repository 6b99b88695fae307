"""The facts that a rollout's step judges, kept from step to step: read once, then changed by the devices that changed.

They always equal the database's. `store.feed` says which devices changed, whoever changed them; where another hub takes
from it, or a step fails, everything is read anew. A device that is heard again and again is noted only now and then:
where the moment matters, it is asked for.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, update
from sqlmodel import Session, col

from cloud_hub.context import Hub
from cloud_hub.rollouts import labelled, signalled
from cloud_hub.rollouts.capabilities import required
from cloud_hub.rollouts.members import Rules, heard_at, members, with_whole
from cloud_hub.store import feed, pairing, shadowing
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import PairEvidence
from cloud_hub.store.windows import settled
from cloud_hub.trust.checks import mute_auditor
from cloud_hub.trust.rows import get_release, status_in_words
from fleet.protocol.channel import Audit, Channel, RolloutRef
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.shadow import Shadow
from fleet.rollouts import machine
from fleet.rollouts.columns import Columns
from fleet.rollouts.errors import PolicyError
from fleet.rollouts.facts import Known
from fleet.rollouts.guard_policy import GuardPolicy, load_policy
from fleet.rollouts.machine import Plan, Progress, RolloutFacts
from fleet.rollouts.matching import Matched
from fleet.rollouts.plan import share_of
from fleet.rollouts.shadow import ShadowFacts
from fleet.rollouts.stage_facts import StageFacts

SHADOWS_PER_S, LONGEST_S = 1000.0, 600.0  # devices of a shadow stage that are judged per second
PAIRED, MATCHED = "paired", ("labels", "signals")
MATCHED_S = 20.0  # from one look at what was labelled or reported to the next


def reference(plan: Plan, share_ppm: int, attempt: int, *, shadow: bool = False) -> RolloutRef:
    """Return the channel document's reference to this rollout; `shadow`: in its shadow stage."""
    return RolloutRef(
        id=plan.id,
        attempt=attempt,
        release=plan.release,
        from_release=plan.from_release,
        share_ppm=share_ppm,
        salt=plan.salt,
        groups=plan.groups,
        measure=plan.policy.get("max_p95_us") is not None,
        shadow=Shadow(cpu_share=plan.shadow.cpu_share) if shadow and plan.shadow is not None else None,
    )


def mute(session: Session, model: str, audit: Audit) -> str:
    """Return why a channel's auditor can answer nothing, in words; empty when it can, or there is none.

    No channel is given such a one any more, but one may have been.
    """
    if audit.auditor is None:
        return ""
    return _mute(model, audit.auditor, get_release(session, model, audit.auditor).manifest)


# Each step of each rollout asks this of the same few manifests.
@lru_cache(maxsize=64)
def _mute(model: str, auditor: int, manifest: bytes) -> str:
    return mute_auditor(model, auditor, decode_manifest(manifest))


class Book:
    """The devices of one attempt of a rollout, as the database had them when they were last read."""

    def __init__(self, session: Session, rules: Rules) -> None:
        self._rules = rules
        self._policy = _policy(rules.plan)
        self._columns = Columns(self._policy.margin)
        self._changed, self._heard = set[str](), set[str]()  # devices that have to be read again
        for member in members(session, rules):
            self._columns.put(member)

    def holds(self, progress: Progress, channel: Channel) -> bool:
        """Tell whether it is of this attempt, and under the channel's present rules."""
        model, mine = self._rules.plan.model, self._rules.progress
        same = (mine.attempt, mine.started_at) == (progress.attempt, progress.started_at)
        return same and self._rules.channel.models[model].rules == channel.models[model].rules

    def note(self, changes: feed.Changes) -> None:
        """These devices are to be read again."""
        self._changed |= changes.devices
        self._heard |= changes.heard

    def facts(self, session: Session, progress: Progress, deaf_until: float, now: float) -> StageFacts:
        """Return the facts of this moment."""
        self._read(session)
        share = share_of(self._rules.plan, progress)
        shared = pairing.shared_inputs(session, self._rules.plan.id, progress.attempt)
        known = StageFacts(self._columns.table(), share, deaf_until, shared)
        joined = machine.joined(self._rules.plan, progress, now)
        unsure = known.unsure(joined, self._policy.silent_after_s, now, feed.BUCKET_S)
        if not unsure:
            return known
        self._hear(session, unsure)
        return StageFacts(self._columns.table(), share, deaf_until, shared)

    def _read(self, session: Session) -> None:
        ids = sorted(self._changed)
        found = {member.fact.device_id: member for member in members(session, self._rules, ids)} if ids else {}
        for name in ids:
            if name in found:
                self._columns.put(found[name])
            else:
                self._columns.drop(name)
        self._hear(session, sorted(self._heard - self._changed))
        self._changed.clear()
        self._heard.clear()

    def _hear(self, session: Session, ids: Sequence[str]) -> None:
        for name, last_seen in heard_at(session, ids):
            self._columns.heard(name, last_seen)


class Books:
    """The books of every live rollout. For one thread."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._reader = secrets.token_hex(16)
        self._shadows: dict[tuple[str, int], float] = {}  # by attempt, when a shadow stage is looked at again
        self._books: dict[str, Book] = {}
        self._matched: dict[tuple[str, int], tuple[float, Matched]] = {}  # by attempt, when it was looked at
        self._drawn: dict[tuple[str, int], list[labelled.Draw]] = {}  # by attempt, the labels that count
        self._settled: int | None = None  # windows up to this number can be counted

    def look(self, live: Collection[str]) -> None:
        """Hear which devices changed; forget every other rollout."""
        try:
            with self._hub.session() as session:
                changed = feed.take(session, self._reader)
        except Exception:
            self._books.clear()  # it may have been taken all the same
            raise
        self._books = {name: book for name, book in self._books.items() if name in live}
        self._shadows = {place: due for place, due in self._shadows.items() if place[0] in live}
        self._matched = {place: known for place, known in self._matched.items() if place[0] in live}
        self._drawn = {place: known for place, known in self._drawn.items() if place[0] in live}
        if changed is None:
            self._books.clear()
            return
        for book in self._books.values():
            book.note(changed)

    def settle(self, plan: Plan, progress: Progress) -> None:
        """See up to which window those of a rollout can be counted. It waits for who is writing some now, so it is to
        be called where no transaction holds anything that they may want."""
        if plan.policy.get("evidence") != "signals" or progress.shadowing:
            return
        last, _ = self._matched.get((plan.id, progress.attempt), (0.0, None))
        if not 0 <= self._hub.clock() - last < MATCHED_S:
            self._settled = settled(self._hub.engine)

    def open(self, session: Session, plan: Plan, progress: Progress, channel: Channel) -> None:
        """Read everything that is not known yet, before the step's own transaction: that takes a while."""
        book = self._books.get(plan.id)
        if progress.shadowing:  # no device has met the release
            return
        if plan.model in channel.models and (book is None or not book.holds(progress, channel)):
            self._books[plan.id] = Book(session, self._rules(session, plan, progress, channel))

    def forget(self, rollout: str) -> None:
        """Read the rollout's devices anew next time, and what its step may have kept in vain."""
        self._books.pop(rollout, None)
        self._matched = {place: known for place, known in self._matched.items() if place[0] != rollout}
        self._drawn = {place: known for place, known in self._drawn.items() if place[0] != rollout}

    def gather(
        self, session: Session, plan: Plan, progress: Progress, channel: Channel, deaf_until: float, now: float
    ) -> tuple[Known | ShadowFacts | None, Mapping[str, str]]:
        """Gather the facts about the rollout's devices, with cohort and control by assignment at the current share; and
        the devices that have failed, which is not in their evidence yet, with their reasons. None when nothing is to be
        judged now.

        Args:
            session: one that holds the lock of the rollout's row.
        """
        kind = ShadowFacts if progress.shadowing else RolloutFacts
        entry = channel.models.get(plan.model)
        if entry is None or entry.release != plan.from_release:
            default = "gone" if entry is None else f"release {entry.release}"
            return kind(superseded=f"the channel's default is {default}, not release {plan.from_release} any more"), {}
        status = status_in_words(session, plan.model, plan.release)
        if status != "published":
            return kind(withdrawn=f"release {plan.release} is {status}"), {}
        if progress.shadowing:
            return self._shadow(plan.id, progress.attempt, deaf_until, now), {}
        with self._hub.snapshot() as seen:  # an input that several meet is in their rows and in the sum of the shared
            facts = self._book(seen, plan, progress, channel).facts(seen, progress, deaf_until, now)
        evidence = plan.policy.get("evidence", PAIRED)
        if evidence in MATCHED:
            facts.matched = self._match(session, plan, progress, facts, now)
        if evidence == PAIRED:
            facts.mute = mute(session, plan.model, entry.audit)
        return facts, facts.unmarked()

    def _match(self, session: Session, plan: Plan, progress: Progress, facts: StageFacts, now: float) -> Matched:
        """The outcomes of both releases; that takes a while, so not at every step."""
        place = plan.id, progress.attempt
        at, known = self._matched.get(place, (0.0, Matched()))
        if 0 <= now - at < MATCHED_S:
            return known
        if plan.policy["evidence"] == "labels":
            drawn = self._drawn.setdefault(place, [])
            known = labelled.matched(session, plan, progress, facts.names(), drawn, now)
        elif self._settled is not None:
            known = signalled.matched(session, plan, progress, facts, self._settled, now)
        self._matched[place] = now, known
        return known

    def _shadow(self, rollout: str, attempt: int, deaf_until: float, now: float) -> ShadowFacts | None:
        """Read the counts of all devices in a shadow stage; of a large fleet not at every step, since it reads all."""
        if now < self._shadows.get((rollout, attempt), now) < now + LONGEST_S:  # later: the clock was set back
            return None
        with self._hub.snapshot() as session:
            seen, shared = shadowing.seen(session, rollout, attempt)
        self._shadows[rollout, attempt] = now + len(seen) / SHADOWS_PER_S
        return ShadowFacts(seen=seen, shared=shared, deaf_until=deaf_until)

    def _book(self, session: Session, plan: Plan, progress: Progress, channel: Channel) -> Book:
        changed = feed.since(session, self._reader)
        if changed is None:  # another hub takes from the feed
            self._books.clear()
            return Book(session, self._rules(session, plan, progress, channel))
        self.open(session, plan, progress, channel)
        book = self._books[plan.id]
        book.note(changed)
        return book

    def _rules(self, session: Session, plan: Plan, progress: Progress, channel: Channel) -> Rules:
        whole = with_whole(channel, plan.model, reference(plan, 0, progress.attempt))
        needed = required(session, plan.model, plan.release)
        return Rules(plan, progress, whole, needed, self._hub.device_tokens.group_secret)


def mark(
    session: Session, plan: Plan, progress: Progress, failed: Mapping[str, str], silent: Collection[str], now: float
) -> None:
    """Keep what a device's next report would hide: its silence (`silent`: ids) or its failure in this attempt."""
    if not silent and not failed:
        return
    lock_name(session, pairing.LOCK)  # before the rows, as ingest does: else each waits for what the other holds
    pairing.make_rows(session, plan.id, progress.attempt, sorted({*silent, *failed}))
    _write(session, plan, progress, [{"device": name, "value": now} for name in sorted(silent)], PairEvidence.silent_at)
    reasons = [{"device": name, "value": failed[name]} for name in sorted(failed)]
    _write(session, plan, progress, reasons, PairEvidence.reason, col(PairEvidence.reason) == "")


def _write(
    session: Session, plan: Plan, progress: Progress, rows: list[dict[str, Any]], column: Any, *where: Any
) -> None:
    place = (col(PairEvidence.rollout) == plan.id, col(PairEvidence.attempt) == progress.attempt)
    change = update(PairEvidence).where(*place, col(PairEvidence.device_id) == bindparam("device"), *where)
    if rows:
        session.connection().execute(change.values({column: bindparam("value")}), rows)


def _policy(plan: Plan) -> GuardPolicy:
    """The rollout's policy; under one that cannot be read nothing is judged."""
    try:
        return load_policy(plan.policy)
    except PolicyError:
        return GuardPolicy()
