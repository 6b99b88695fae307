"""The kinds of events, and their bounds. Pure.

Every kind has a name and a sentence; a target of `hub.toml` chooses among them by name, by `noun.*`, or by `*`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct

KINDS = {
    "rollout.halted": "the guard, or missing evidence, ended a rollout, and its devices went back",
    "rollout.aborted": "a rollout ended early: by an operator, by its end time, or since another release came",
    "rollout.holding": "a rollout waits for evidence",
    "rollout.approval": "a rollout waits for somebody to approve its next stage",
    "rollout.finished": "a rollout's release is the channel's default now",
    "alarm.raised": "drift, broken data, outliers, or answers that are right less often",
    "drift.unwatched": "the drift of a release could not be looked at, several times in a row",
    "job.failed": "a job failed, such as a retrain",
    "key.expiring": "signed metadata ends soon that only a key ceremony renews",
    "certificate.expiring": "a certificate of the hub's own ends soon",
    "device.cloned": "two machines use one device's identity",
    "device.flooding": "a device sends more than the hub takes of one",
    "hub.trouble": "a part of a hub has not worked for a minute: objects, broker, ingest or clock",
    "hub.recovered": "a part of a hub works again",
    "event.test": "somebody asked for a test of a target",
}
ROLLOUT = {  # what the history of a rollout calls it
    "halted": "rollout.halted",
    "aborted": "rollout.aborted",
    "expired": "rollout.aborted",
    "holding": "rollout.holding",
    "awaiting-approval": "rollout.approval",
    "finished": "rollout.finished",
}
# Of a kind within an hour, since devices can cause some of them, and people stop reading: of one subject; of all; of
# all where some subjects had none before.
MOST_OF_ONE, MOST_PER_HOUR, MOST_AT_ALL = 20, 100, 300
MESSAGE = 500  # characters
DATA = 4096  # bytes of JSON


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened: of which kind, to what, in a sentence, with facts for programs (plain JSON)."""

    kind: str
    subject: str
    message: str
    data: dict[str, Any] = {}


def of_rollout(name: str, rollout: str, reason: str, data: dict[str, Any]) -> Event | None:
    """Return the event of one step in a rollout's history; None for a step that nobody waits for.

    Args:
        name: of the step.
        rollout: its id.
        reason: of the step; for people.
        data: of the step.
    """
    kind = ROLLOUT.get(name)
    if kind is None:
        return None
    said = {"rollout.approval": "waits for approval", "rollout.holding": "holds"}.get(kind, name)
    return bounded(Event(kind=kind, subject=rollout, message=f"rollout {rollout} {said}: {reason}", data=data))


def bounded(event: Event) -> Event:
    """The event with a message of one line and data that fit; devices write parts of both."""
    message = "".join(letter if letter.isprintable() else " " for letter in event.message)
    message = message if len(message) <= MESSAGE else message[: MESSAGE - 1] + "…"
    data = event.data if len(msgspec.json.encode(event.data)) <= DATA else {"left_out": "it is too long"}
    return Event(kind=event.kind, subject=event.subject[:255].replace("\x00", " "), message=message, data=data)


def place_in_hour(earlier: int, of_it: int) -> tuple[bool, str]:
    """Tell whether an event is kept, and return the words that are added to its message.

    No subject, such as a device that goes on and on, takes the place of another: one that was silent within the hour is
    heard beyond `MOST_PER_HOUR`, too.

    Args:
        earlier: how many its kind had within the hour.
        of_it: how many of them were of its subject.
    """
    if of_it >= MOST_OF_ONE or earlier >= MOST_AT_ALL or (earlier >= MOST_PER_HOUR and of_it):
        return False, ""
    if earlier + 1 == MOST_AT_ALL:
        what = "of this kind"
    elif earlier + 1 == MOST_PER_HOUR:
        what = "of this kind and of those that it was told of already"
    elif of_it + 1 == MOST_OF_ONE:
        return True, f" (the {MOST_OF_ONE}th of it within an hour: later ones are left out, see the audit log)"
    else:
        return True, ""
    return True, f" (the {earlier + 1}th within an hour: later ones {what} are left out, see the audit log)"


def check_pattern(pattern: str) -> str:
    """A pattern that means some kind; ValueError with what there is."""
    if not any(matches(pattern, kind) for kind in KINDS):
        raise ValueError(
            f"{pattern!r} is no kind of event; use *, a noun such as rollout.*, or one of {', '.join(KINDS)}"
        )
    return pattern


def matches(pattern: str, kind: str) -> bool:
    """Tell whether a pattern (`*`, `noun.*` or a kind) means `kind`."""
    return pattern in ("*", kind) or (pattern.endswith(".*") and kind.startswith(pattern[:-1]))


def is_wanted(patterns: Collection[str], kind: str) -> bool:
    """Tell whether a target with these patterns gets events of `kind`; a test goes to the target that it names."""
    return any(matches(pattern, kind) for pattern in patterns)
