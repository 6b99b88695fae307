"""Settles what an input counts for where several devices say what came of it. Pure.

The same input, answered by the same two releases and the same auditor, has the same outcome on every device, but for
what runtimes differ in. So devices that meet the same input check one another. Of each outcome a few devices that claim
it are kept, drawn by lot, which bounds what an input takes and leaves nobody a way to keep others out:

- One device alone says it: the outcome is that device's, and bounded as everything that one device brings.
- Two or more say the same: it is settled, and belongs to one of them, drawn by lot. Who says otherwise alone is
  outvoted.
- Devices contradict one another, and no outcome or several are claimed by two: it is disputed, and counts against
  whatever is to be shown, as won where harm is to be shown and as lost where health is.

So each input counts once. A device that speaks of inputs which others have met draws some of them to itself, and may
choose them by their outcome, which tilts what is left to the others. Therefore each device's own word counts a second
time, of all that it claims and whoever else does (`own_old`, `own_new`), and nothing is shown that this does not show
as well (`evidence`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.rollouts.bets import Counts, excess_gains, pooled

OUTCOMES = ("both", "only_old", "only_new", "neither")
MAYBE = {"only_old": "maybe_old", "only_new": "maybe_new"}
SETTLED = 2  # devices that say the same
KEPT = 8  # devices of each outcome
OWN = {"only_old": "own_old", "only_new": "own_new"}
SHARED = ""  # stands where a device's name would, for what several have met
LEAST_OUTVOTED = 5  # inputs: of fewer nothing is said
RUNTIMES_DIFFER = 0.02  # of the inputs that two runtimes of one release answer, at most
ERROR = 0.01  # that an honest device is contradicted, over all of them
MOST_NAMED = 10  # devices


class SharedInputs(Struct, frozen=True, kw_only=True):
    """Inputs of an attempt that several devices have met.

    Those that are `settled` count with the devices that they belong to. Of the `disputed` ones, `maybe_old` may be
    right by the old release only, and `maybe_new` by the new one only; some are both, some neither.
    """

    settled: int = 0
    disputed: int = 0
    maybe_old: int = 0
    maybe_new: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.settled + self.disputed


def with_claim(key: int, claims: Mapping[str, str], device: str, outcome: str) -> Mapping[str, str]:
    """Return the claims of an input with one more: the same where the device has said something of it already, or
    where `KEPT` others that say the same were drawn before it. A lot does not depend on who came first, so that those
    who lie together cannot take all places of an outcome that speaks against them.

    Args:
        key: the input.
        claims: outcomes by device.
        device, outcome: the new one.
    """
    if device in claims:
        return claims
    alike = [name for name, claimed in claims.items() if claimed == outcome]
    if len(alike) < KEPT:
        return {**claims, device: outcome}
    last = max(alike, key=lambda name: _lot(key, name))
    if _lot(key, last) < _lot(key, device):
        return claims
    return {name: claimed for name, claimed in claims.items() if name != last} | {device: outcome}


def effects(key: int, claims: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the counts of devices, and of `SHARED`, to which an input adds one: (whose, which count).

    Args:
        key: the input.
        claims: outcomes by device.
    """
    found = {(device, "claimed") for device in claims}
    found |= {(device, OWN[outcome]) for device, outcome in claims.items() if outcome in OWN}
    if len(claims) < SETTLED:
        return found | set(claims.items())
    found |= {(device, "checked") for device in claims}
    told = Counter(claims.values())
    credible = {outcome for outcome, devices in told.items() if devices >= SETTLED} or set(told)
    found |= {(device, "outvoted") for device, outcome in claims.items() if outcome not in credible}
    if len(credible) == 1:
        outcome = credible.pop()
        owner = _drawn(key, [device for device, claimed in claims.items() if claimed == outcome])
        return found | {(SHARED, "settled"), (owner, outcome)}
    found |= {(device, "disputed") for device, outcome in claims.items() if outcome in credible}
    return found | {(SHARED, "disputed"), *((SHARED, maybe) for name, maybe in MAYBE.items() if name in credible)}


def _drawn(key: int, devices: Iterable[str]) -> str:
    """Return one of the devices, by lot: neither the order in which they came decides nor what they said."""
    return min(devices, key=lambda device: _lot(key, device))


def _lot(key: int, device: str) -> bytes:
    return blake2b(f"{key}:{device}".encode(), digest_size=8).digest()


class Claims:
    """The claims of devices on an attempt's inputs, and what these add to the counts.

    Args:
        known: outcomes by device of the inputs that have been met already.
    """

    def __init__(self, known: Mapping[int, Mapping[str, str]] | None = None) -> None:
        self._known = dict(known or {})
        self._changed: set[int] = set()
        self._before: dict[int, Mapping[str, str]] = {}  # claims of inputs whose effects are not counted yet
        self._effects: Counter[tuple[str, str]] = Counter()

    def add(self, device: str, outcomes: Mapping[int, str], most: int) -> tuple[int, int]:
        """Take in what a device says of inputs: how many of them are new, and how many of its claims are kept.

        Args:
            most: claims that are kept; inputs are hashes, so those left out do not depend on the outcome.
        """
        new = taken = 0
        for key in sorted(outcomes):
            if taken >= most:
                break
            before = self._known.get(key)
            new += before is None
            if before == {}:  # it was counted before claims were kept
                continue
            after = with_claim(key, before or {}, device, outcomes[key])
            if after == (before or {}):
                continue
            self._before.setdefault(key, before or {})
            self._known[key] = after
            self._changed.add(key)
            taken += 1
        return new, taken

    def changed(self) -> list[tuple[int, Mapping[str, str]]]:
        """Return the inputs of which something was claimed, with all claims."""
        return [(key, self._known[key]) for key in sorted(self._changed)]

    def adds(self) -> dict[str, dict[str, int]]:
        """Return what the claims add to the counts of devices, others than have claimed among them, and of `SHARED`."""
        for key, before in self._before.items():  # once for all that a batch says of an input
            now, then = effects(key, self._known[key]), effects(key, before)
            self._effects.update(now - then)
            self._effects.subtract(then - now)
        self._before.clear()
        found: dict[str, dict[str, int]] = {}
        for (whose, which), count in self._effects.items():
            if count:
                found.setdefault(whose, {})[which] = count
        return found


def contradicted(outvoted: Counts, checked: Counts) -> npt.NDArray[np.bool_]:
    """Tell which devices others contradict more often than runtimes differ.

    The null hypothesis is that others say otherwise of at most `RUNTIMES_DIFFER` of the inputs that a device claims
    and another one has met. All devices together have `ERROR`, however often one looks at them while counts only
    grow: the bets are those of `bets.excess_gains`. What a device alone has met does not count, so that nobody hides
    behind inputs that it makes up.

    Args:
        outvoted: inputs of which others say otherwise, (devices,).
        checked: inputs that others have met as well, (devices,); none are known of what was counted before they were.
    """
    found = outvoted >= LEAST_OUTVOTED
    if found.any():
        wrong = outvoted[found]
        right = np.maximum(checked[found] - wrong, 0)
        log_e = pooled(excess_gains(wrong, right, RUNTIMES_DIFFER, reserve=0.0)[:, None, :])
        found[found] = log_e >= math.log(max(1, int((checked > 0).sum())) / ERROR)
    return found


def most(names: list[str], counts: Counts, which: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """Return some of the devices, those with the most first; at most `MOST_NAMED`."""
    at = np.flatnonzero(which)
    ranked = sorted(at.tolist(), key=lambda place: (-int(counts[place]), names[place]))
    return tuple(names[place] for place in ranked[:MOST_NAMED])
