"""Chooses the pause after a connection that the broker had accepted and that did not last.

Two machines with one identity (a copied card) take the connection over from each other. If each came back at once,
neither would get any work done, and the broker none either. So pauses grow while connections end soon, with chance in
them, so that the two do not keep step. A bad line looks alike from here: it is treated alike, but only up to a minute.
Which of the two it is knows the hub, which sees who connects: when it says so, pauses grow on, also after connections
that lasted, and one machine has the identity most of the time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from msgspec import Struct

SOON_S = 30.0  # a connection that lasted longer was a good one
FREE = 2  # connections in a row that may end soon without any pause
FIRST_S = 2.0
MOST_S = 60.0
MOST_TWICE_S = 600.0


class Unsteady(Struct, frozen=True):
    """The number of connections in a row that did not last."""

    ended_soon: int = 0


def ended(before: Unsteady, lasted_s: float, *, twice: bool) -> Unsteady:
    """Count the end of a connection; `twice` when the hub says that the identity is in use twice."""
    if lasted_s > SOON_S and not twice:
        return Unsteady()
    return Unsteady(before.ended_soon + 1)


def reconnect_pause_s(unsteady: Unsteady, chance: float, *, twice: bool) -> float:
    """Return the seconds until the next attempt, 0 for as usual; `chance` is from 0 to 1.

    Args:
        unsteady: the connections that did not last.
        chance: evenly drawn from 0 to 1.
        twice: the hub says that the identity is in use twice.
    """
    beyond = unsteady.ended_soon - FREE
    if beyond <= 0:
        return 0.0
    longest = MOST_TWICE_S if twice else MOST_S
    return min(FIRST_S * 2.0 ** min(beyond - 1, 30), longest) * (0.5 + chance)


class Reconnecting:
    """The pauses of one uplink. Called on the network's thread, one call at a time.

    `until` is the monotonic time before which silence is meant.
    """

    def __init__(
        self,
        twice: Callable[[], bool],
        *,
        now: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._twice, self._now, self._rng = twice, now, rng
        self._since: float | None = None
        self.unsteady = Unsteady()
        self.until = 0.0

    def accepted(self) -> None:
        """The broker accepted the connection."""
        self._since = self._now()

    def ended(self) -> float | None:
        """The connection is gone; seconds until the next attempt, None when it had not been accepted."""
        if self._since is None:
            return None
        now, twice = self._now(), self._twice()
        self.unsteady = ended(self.unsteady, now - self._since, twice=twice)
        pause = reconnect_pause_s(self.unsteady, self._rng(), twice=twice)
        self._since, self.until = None, now + pause
        return pause
