"""A database that is older than the journal catches up before its hub serves anybody."""

from __future__ import annotations

from typing import NamedTuple

from cloud_hub import journal
from cloud_hub.acts import Position, RolloutEnded
from cloud_hub.context import Hub
from cloud_hub.errors import HubError
from cloud_hub.rollouts.engine import carry_out, read_or_name, store
from cloud_hub.store.tables import RolloutRow
from fleet.rollouts import machine


class Replayed(NamedTuple):
    """The number of entries that were carried out, and problems that an operator should know or solve, in sentences."""

    entries: int
    problems: tuple[str, ...]


def replay(hub: Hub, *, whole: bool = False) -> Replayed:
    """Carry out what the journal says and the database lacks; nothing happens when it lacks nothing.

    Nothing is published before all of it is carried out. `whole` reads the journal from its beginning, where it was
    put together from copies that had parted, so that a position says nothing.

    Carrying out an entry twice changes nothing, so a replay that was cut off is simply done again.

    Raises:
        UnreachableError: the journal cannot be read.
    """
    with hub.reading() as session:
        at = Position(0, journal.FIRST) if whole else journal.position(session)
    found = hub.journal.read(at)
    problems = list(found.problems)
    if found.entries or found.tail != at:
        with hub.publisher.withheld():
            for entry in found.entries:
                if isinstance(entry.act, RolloutEnded):
                    problems += _end(hub, entry.act)
            problems += hub.publisher.replay(found.entries, found.tail)
        hub.publisher.recover()
    return Replayed(len(found.entries), tuple(problems))


def _end(hub: Hub, act: RolloutEnded) -> list[str]:
    """End a rollout that has ended in the time that is lost; its channel loses it, too."""
    with hub.session() as session:
        row = session.get(RolloutRow, act.rollout, with_for_update=True)
        if row is None or row.state in machine.ENDED:
            return []
        plan, progress = read_or_name(row)
        why = f"it was {act.state} before the hub was restored: {act.reason}"
        decision = machine.apply(plan, progress, "abort", hub.clock(), reason=why)
        store(session, row, decision, hub.clock(), noted=False)  # it is in the journal
        hub.audit(session, "journal", "rollout.abort", act.rollout, {"reason": why})
    try:
        carry_out(hub, act.rollout, actor="journal")
    except HubError as error:
        return [f"rollout {act.rollout} is over, but its channel still names it: {error}"]
    return []
