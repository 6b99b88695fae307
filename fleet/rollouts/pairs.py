"""Audited pairs of distinct inputs, by device and in columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.rollouts.bets import AUDITED, Bets, Counts, Floats
from fleet.rollouts.claims import SharedInputs, contradicted, most

Mask = npt.NDArray[np.bool_]


class Pairs(Struct, frozen=True, kw_only=True):
    """One device's audited pairs of distinct inputs, counted as in `fleet.protocol.telemetry.PairCounts`.

    They are of inputs that it alone has met, and of those that belong to it by lot (`claims`). Beside them, and no
    evidence: `repeats` of inputs that are counted already, here or on another device, and pairs whose inputs the agent
    did not name (`unnamed`), which may be repeats. `claimed` are all inputs of which its word is kept, `own_old` and
    `own_new` of them right by one release only, as it says itself; others have met the `checked` ones as well, say
    otherwise of the `outvoted`, and it is open of the `disputed` who is right.
    """

    both: int = 0
    only_old: int = 0
    only_new: int = 0
    neither: int = 0
    repeats: int = 0
    unnamed: int = 0
    claimed: int = 0
    own_old: int = 0
    own_new: int = 0
    checked: int = 0
    outvoted: int = 0
    disputed: int = 0

    @property
    def total(self) -> int:
        """All pairs that count."""
        return self.both + self.only_old + self.only_new + self.neither

    @property
    def inputs(self) -> int:
        """The inputs of which it says something."""
        return max(self.total, self.claimed)

    @property
    def own(self) -> tuple[int, int, int]:
        """Its own word: inputs that only the old release got right, that only the new one did, and all others."""
        if not self.claimed:
            return self.only_old, self.only_new, self.both + self.neither
        return self.own_old, self.own_new, self.claimed - self.own_old - self.own_new


class Tally(NamedTuple):
    """The pairs of many devices, counted in one way: inputs that only the `old` release got right, that only the `new`
    one did, and all others (int64, (devices,)), with the logarithms of each device's gains (float64, (devices, stakes))
    as `harm_gains` and `health_gains` give them for the margin of the test."""

    old: Counts
    new: Counts
    same: Counts
    harm: Floats
    health: Floats

    def of(self, which: Mask) -> Tally:
        """Return that of some of the devices."""
        return self if which.all() else Tally(*(part[which] for part in self))


class Counted(NamedTuple):
    """The pairs of many devices, in columns.

    Beside the sums over all devices it has, of those that say something of inputs (`names`, in their order), `both` and
    `neither` (int64, (devices,)), the `distinct` inputs, each of which counts with one device, their `own` words of all
    that they claim, and whether they are `heard`, that is, others do not contradict them. `shared` are the inputs that
    several have met.
    """

    names: Sequence[str]
    both: Counts
    neither: Counts
    distinct: Tally
    own: Tally
    heard: Mask
    seen_on: int
    repeats: int
    unnamed: int
    shared: SharedInputs = SharedInputs()
    disputing: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()


def counted(
    by_device: Mapping[str, Pairs], margin: float, bets: Bets | None = None, shared: SharedInputs | None = None
) -> Counted:
    """Put the pairs of each device into columns, with their gains.

    Args:
        by_device: counts by device; one that says nothing of inputs is left out.
        margin: net loss per request that is no longer tolerable.
        bets: those that bring the gains; None for an auditor's.
        shared: inputs that several devices have met.
    """
    bets, names = bets or AUDITED, sorted(by_device)
    outvoted, checked, disputed = (
        np.array([getattr(by_device[name], which) for name in names], np.int64)
        for which in ("outvoted", "checked", "disputed")
    )
    doubted = contradicted(outvoted, checked)
    named = [(name, by_device[name]) for name in names if by_device[name].inputs > 0]
    distinct = [(p.only_old, p.only_new, p.both + p.neither) for _, p in named]
    return Counted(
        names=[name for name, _ in named],
        both=np.array([p.both for _, p in named], np.int64),
        neither=np.array([p.neither for _, p in named], np.int64),
        distinct=_tally(distinct, margin, bets),
        own=_tally([p.own for _, p in named], margin, bets),
        heard=~doubted[[by_device[name].inputs > 0 for name in names]],
        seen_on=sum(p.inputs + p.repeats > 0 for p in by_device.values()),
        repeats=sum(p.repeats for p in by_device.values()),
        unnamed=sum(p.unnamed for p in by_device.values()),
        shared=shared or SharedInputs(),
        disputing=most(names, disputed, disputed > 0),
        contradicted=most(names, outvoted, doubted),
    )


def _tally(rows: Sequence[tuple[int, int, int]], margin: float, bets: Bets) -> Tally:
    old, new, same = np.array(rows, np.int64).reshape(-1, 3).T
    return Tally(old, new, same, bets.harm(old, new), bets.health(old, new, same, margin))
