"""Adds what windows say about rollouts to the evidence of their devices.

A window names its rollout in three ways: `pairs` for audited requests that two releases answered, `shadow` for requests
that a release answered beside the one that serves, `rollout` for how its own requests went. Each is counted only where
a device can say it; see `store.pairing` for what a pair is worth, and `store.shadowing` for the stage before anybody is
served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlmodel import Session, col, select

from cloud_hub.store import pairing, shadowing
from cloud_hub.store.engine import lock_name
from cloud_hub.store.pairing import Evidence, servable
from cloud_hub.store.rollout_rows import share_ppm
from cloud_hub.store.senders import Sender
from cloud_hub.store.tables import RolloutRow
from fleet.protocol.resolve import in_cohort
from fleet.protocol.telemetry import Window

Said = tuple[Sender, Window]
Rollouts = Mapping[str, RolloutRow]


def write_evidence(session: Session, windows: Sequence[Said]) -> None:
    """Add what these windows say, in their order."""
    named = {window.rollout for _, window in windows} | {window.pairs.rollout for _, window in windows if window.pairs}
    named |= {window.shadow.rollout for _, window in windows if window.shadow}
    named.discard("")
    if not named:
        return
    lock_name(session, pairing.LOCK)
    rollouts = {row.id: row for row in session.exec(select(RolloutRow).where(col(RolloutRow.id).in_(named)))}
    shadowed = [said for said in windows if _shadows(*said, rollouts)]
    if shadowed:
        shadowing.add(session, [(s.id, w.shadow, servable(w.started_at, w.ended_at)) for s, w in shadowed if w.shadow])
    about = {window.pairs.rollout for _, window in windows if window.pairs} & rollouts.keys()
    shares = {name: share_ppm(rollouts[name]) for name in about}  # reads the whole plan: once for all windows
    paired = [said for said in windows if _pairs_count(*said, rollouts, shares)]
    served = [said for said in windows if _serves(*said, rollouts)]
    if not paired and not served:
        return
    evidence = Evidence(
        session,
        places={(window.pairs.rollout, window.pairs.attempt, sender.id) for sender, window in paired if window.pairs}
        | {(window.rollout, window.attempt, sender.id) for sender, window in served},
        pairs=[window.pairs for _, window in paired if window.pairs],
    )
    for sender, window in paired:
        assert window.pairs is not None
        audited = min(window.counters.get("audited", 0), servable(window.started_at, window.ended_at))
        evidence.count(sender.id, window.pairs, audited)
    for sender, window in served:
        evidence.add((window.rollout, window.attempt, sender.id), _served(window))
    evidence.keep(session)


def _pairs_count(sender: Sender, window: Window, rollouts: Rollouts, shares: Mapping[str, int]) -> bool:
    """Tell whether its pairs are of a rollout that goes on, in its present attempt, on the device's own channel, and a
    stage so far can have held the device: no other may say anything of inputs, which would count for those that did."""
    pairs = window.pairs
    row = rollouts.get(pairs.rollout) if pairs is not None else None
    if pairs is None or row is None or row.ended_at is not None or row.channel != sender.channel:
        return False
    if row.progress.get("shadowing"):  # nobody is served the release yet
        return False
    if (pairs.attempt, pairs.old, pairs.new) != (row.attempt, row.from_release, row.release):
        return False
    return in_cohort(row.salt, sender.id, shares[row.id])


def _shadows(sender: Sender, window: Window, rollouts: Rollouts) -> bool:
    """Tell whether it is of a rollout's live shadow stage, in its present attempt, on the device's own channel."""
    shadow = window.shadow
    row = rollouts.get(shadow.rollout) if shadow is not None else None
    if shadow is None or row is None or row.ended_at is not None or not row.progress.get("shadowing"):
        return False
    about = (sender.channel, window.model, shadow.attempt, shadow.old, shadow.new)
    return about == (row.channel, row.model, row.attempt, row.from_release, row.release)


def _serves(sender: Sender, window: Window, rollouts: Rollouts) -> bool:
    """Return whether the window is of what the rollout brings to the device's own channel."""
    row = rollouts.get(window.rollout)
    if row is None or window.attempt > row.attempt:
        return False
    return (row.channel, row.model, row.release) == (sender.channel, window.model, window.release)


def _served(window: Window) -> dict[str, int]:
    """Count the requests that a window's release took, and those of them that it answered itself."""
    most = servable(window.started_at, window.ended_at)
    requests, failed, refused, newly = (
        min(window.counters.get(name, 0), most) for name in ("requests", "local_failed", "refused", "newly_refused")
    )
    return {"answered": max(0, requests - refused - failed), "local_failed": failed, "newly_refused": newly}
