"""Settles what an input counts for where several devices say what came of it. Pure.

The same input, answered by the same two releases and the same auditor, has the same outcome on every device, but for
what runtimes differ in. So devices that meet the same input check one another. Of each outcome the first two devices
that claim it are kept, which bounds what an input takes and leaves nobody a way to keep others out:

- One device alone says it: the outcome is that device's, and bounded as everything that one device brings.
- Two say the same: it is settled, and belongs to no device any more. Who says otherwise alone is outvoted.
- Devices contradict one another, and no outcome or several are claimed by two: it is disputed, and counts against
  whatever is to be shown, as won where harm is to be shown and as lost where health is.

While at most one device lies, a settled outcome is true, and a disputed one proves no more than the true one would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

OUTCOMES = ("both", "only_old", "only_new", "neither")
MAYBE = {"only_old": "maybe_old", "only_new": "maybe_new"}
KEPT = 2  # devices that are kept of each outcome: as many as it takes to settle it
SHARED = ""  # stands where a device's name would, for what two have claimed or devices dispute
LEAST_OUTVOTED = 5  # inputs: fewer may be what runtimes differ in
MOST_NAMED = 10  # devices


class SharedInputs(Struct, frozen=True, kw_only=True):
    """Inputs of an attempt that several devices have met.

    The outcomes count those that are settled. Of the `disputed` ones, `maybe_old` may be right by the old release only,
    and `maybe_new` by the new one only; some are both, some neither.
    """

    both: int = 0
    only_old: int = 0
    only_new: int = 0
    neither: int = 0
    disputed: int = 0
    maybe_old: int = 0
    maybe_new: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.both + self.only_old + self.only_new + self.neither + self.disputed

    @property
    def at_worst(self) -> tuple[int, int, int]:
        """Inputs that only the old release got right, that only the new one did, and all others; those disputed as if
        the new one had lost them where it may have."""
        same = self.both + self.neither + self.disputed - self.maybe_old
        return self.only_old + self.maybe_old, self.only_new, same

    @property
    def at_best(self) -> tuple[int, int]:
        """Inputs that only the old release got right, and that only the new one did; those disputed as if the new one
        had won them where it may have."""
        return self.only_old, self.only_new + self.maybe_new


def kept(claims: Mapping[str, str], device: str, outcome: str) -> bool:
    """Tell whether a claim is kept beside those of an input (outcomes by device): the first of a device counts."""
    return device not in claims and sum(claimed == outcome for claimed in claims.values()) < KEPT


def effects(claims: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """Return what an input adds to the counts of devices and to those of `SHARED`: (whose, which count), how much.

    Args:
        claims: outcomes by device.
    """
    if len(claims) < 2:
        return Counter({(device, outcome): 1 for device, outcome in claims.items()})
    told = Counter(claims.values())
    credible = {outcome for outcome, devices in told.items() if devices >= KEPT} or set(told)
    outvoted = [(device, "outvoted") for device, outcome in claims.items() if outcome not in credible]
    if len(credible) == 1:
        return Counter([(SHARED, credible.pop()), *outvoted])
    disputed = [(device, "disputed") for device, outcome in claims.items() if outcome in credible]
    may_be = [(SHARED, maybe) for outcome, maybe in MAYBE.items() if outcome in credible]
    return Counter([(SHARED, "disputed"), *may_be, *disputed, *outvoted])


class Claims:
    """The claims of devices on an attempt's inputs, and what these add to the counts.

    Args:
        known: outcomes by device of the inputs that have been met already.
    """

    def __init__(self, known: Mapping[int, Mapping[str, str]] | None = None) -> None:
        self._known = dict(known or {})
        self._changed: set[int] = set()
        self._effects: Counter[tuple[str, str]] = Counter()

    def add(self, device: str, outcomes: Mapping[int, str], most: int) -> tuple[int, int]:
        """Take in what a device says of inputs: how many of them are new, and how many of its claims are kept.

        Args:
            most: inputs that are looked at; they are hashes, so what is left out does not depend on the outcome.
        """
        new = taken = 0
        for key in sorted(outcomes)[: max(0, most)]:
            before = self._known.get(key)
            new += before is None
            # An input without claims was counted before they were kept.
            if before == {} or not kept(before or {}, device, outcomes[key]):
                continue
            after = {**(before or {}), device: outcomes[key]}
            self._effects.update(effects(after))
            self._effects.subtract(effects(before or {}))
            self._known[key] = after
            self._changed.add(key)
            taken += 1
        return new, taken

    def changed(self) -> list[tuple[int, Mapping[str, str]]]:
        """Return the inputs of which something was claimed, with all claims."""
        return [(key, self._known[key]) for key in sorted(self._changed)]

    def adds(self) -> dict[str, dict[str, int]]:
        """Return what the claims add to the counts of devices, others than have claimed among them, and of `SHARED`."""
        found: dict[str, dict[str, int]] = {}
        for (whose, which), count in self._effects.items():
            if count:
                found.setdefault(whose, {})[which] = count
        return found


def most(names: list[str], counts: npt.NDArray[Any], least: int) -> tuple[str, ...]:
    """Return the devices that have at least so many, those with the most first; at most `MOST_NAMED`."""
    at = np.flatnonzero(counts >= least)
    ranked = sorted(at.tolist(), key=lambda place: (-int(counts[place]), names[place]))
    return tuple(names[place] for place in ranked[:MOST_NAMED])
