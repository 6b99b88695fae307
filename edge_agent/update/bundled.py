"""Tells of a look at a bundle in a bundle's words: advice that helps there, and models that it was not made for.

Whoever made the bundle says in `bundle.json` for which models. Nobody signed that, so it permits nothing: it only
keeps what the folder lacks on purpose from counting as a failure. What is signed holds for the other models, too: one
that the channel sends back to a release that is held goes back.
"""

from __future__ import annotations

import logging
from pathlib import Path

from msgspec.structs import replace

from edge_agent.errors import AgentError, UnreachableError, UpdateError
from edge_agent.update.download.folder import open_regular
from edge_agent.update.messages import Failed, LookRequest, Message, Offer, Refusal
from fleet.protocol import bundle
from fleet.protocol.codec import decode_json
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)

REMEDY = "make a new bundle"
_DAMAGED = "the bundle was damaged or changed on its way: copy it again, or {make}"
_ADVICE = {
    "expired-metadata": "{make}",
    "not-found": "the bundle was made of another channel or of other models, or copied in part: {make}",
    "untrusted-metadata": "the bundle is an old copy, was changed on its way, or is another hub's: {make}",
    "hash-mismatch": _DAMAGED,
    "too-large": _DAMAGED,
    "fetch-failed": _DAMAGED,
}


class Bundle:
    """A folder that is being installed from; `channel` is the one that the device follows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left_out: list[str] = []  # models of the channel that it was not made for
        self.said: list[Message] = []
        self.channel = "CHANNEL"

    def heard(self, asked: LookRequest, messages: list[Message]) -> list[Message]:
        """The messages of a look, as the updater should have them; they are kept for the outcome."""
        label = _label(self.folder)
        kept = []
        for message in messages:
            if label is not None and _is_left_out(message, label, asked):
                assert isinstance(message, Offer | Refusal)
                self.left_out.append(message.model)
            else:
                kept.append(self.advised(message))
        self.said += kept
        return kept

    def advised(self, message: Message) -> Message:
        """The message with a hint for who has a bundle in hand."""
        if not isinstance(message, Refusal | Failed):
            return message
        return replace(message, hint=self._hint(message.reason, message.hint))

    def refused(self, error: AgentError) -> UpdateError:
        """Return why the look failed, likewise in a bundle's words."""
        return UpdateError(
            str(error), subject=error.subject, reason=error.reason, hint=self._hint(error.reason, error.hint)
        )

    def _hint(self, reason: str, otherwise: str) -> str:
        make = f"fleet release bundle --channel {self.channel} --out FOLDER"
        return _ADVICE[reason].format(make=f"{REMEDY}: {make}") if reason in _ADVICE else otherwise


def _is_left_out(message: Message, label: bundle.Label, asked: LookRequest) -> bool:
    if isinstance(message, Refusal):
        return message.model not in label.models and message.reason == "not-found"
    if isinstance(message, Offer):
        return message.model not in label.models and message.target.held not in asked.held.get(message.model, ())
    return False


def _label(folder: Path) -> bundle.Label | None:
    """None where there is none that can be read: then all that the channel names is expected."""
    try:
        file = open_regular(folder / bundle.NAME)
        if file is None:
            return None
        with file:
            return decode_json(file.read(bundle.LIMIT + 1), bundle.Label, limit=bundle.LIMIT, subject=bundle.NAME)
    except (UnreachableError, OSError, ProtocolError) as error:
        log.info("%s: %s", folder, error)
        return None
