"""The port to what runs releases beside those that serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_agent.update.messages import Beside
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.channel import Channel


class Shadows(Protocol):
    """Hears which releases are to run beside those that serve, and which of them are ready; see `shadow.runner`."""

    async def follow(self, ordered: Sequence[Beside]) -> None:
        """These, and no others."""

    def wants(self, beside: Beside) -> bool:
        """Return whether it is still to be made ready."""

    def ready(self, beside: Beside) -> None:
        """It is here, verified and tried."""

    def failed(self, beside: Beside, reason: str, detail: str) -> None:
        """It has not passed its self-test."""

    def refused(self, beside: Beside, reason: str, detail: str) -> None:
        """It is not here, and the next look tries again."""

    def kept(self, channel: Channel | None) -> list[HeldRelease]:
        """Return the releases that stay on the disk for it."""
