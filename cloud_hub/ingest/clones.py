"""Detects two machines that use one device's identity, as after a card was copied. Pure.

Every status names the agent's process (agents of 0.1 name their connection, which they keep as long as they reconnect
by themselves). An agent that starts again, however often, never goes back to a name it had: A, B, C. Two that run side
by side take the connection over from each other again and again: A, B, A, B. A name that comes back gives them away;
a flaky network, which only makes one process connect often, does not.
"""

from __future__ import annotations

from msgspec import Struct

NAMES = 8  # remembered per device: as many machines are told apart
RETURNS = 2  # of names, before it is said aloud: one may be a message that was long on its way
PERIOD_S = 3600.0  # in which they count, and for which the device is shown as cloned after the last one


class Heard(Struct, frozen=True):
    """The names heard last of one device, the current one at the end, and when names came back (the hub's time)."""

    names: tuple[str, ...] = ()
    returns: tuple[float, ...] = ()

    @property
    def cloned(self) -> bool:
        """True if two processes were at it when the last status was heard."""
        return len(self.returns) >= RETURNS


def heard(before: Heard, name: str, now: float) -> Heard:
    """Return what is known after one more status; `name` is its process, `now` the hub's time in Unix seconds."""
    returns = tuple(at for at in before.returns if abs(now - at) <= PERIOD_S)
    if before.names and before.names[-1] == name:
        return Heard(before.names, returns)
    if name in before.names:
        returns = (*returns, now)[-RETURNS:]
    others = tuple(other for other in before.names if other != name)
    return Heard((*others, name)[-NAMES:], returns)


def still_cloned(last_at: float | None, now: float) -> bool:
    """Return whether a device is shown as cloned `now`, when it last showed that it is."""
    return last_at is not None and abs(now - last_at) <= PERIOD_S
