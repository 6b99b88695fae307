"""Evidence without an auditor: what the new release did, matched with what the old one did at the same time. Pure.

Two releases that answer different requests cannot be compared request by request. But where the requests of both are
drawn alike, the n-th outcome of one and the n-th of the other make a pair like that of an audited request: right by
both, by one, by neither. Over many pairs the share that only the old release gets right, less the share that only the
new one does, is the net loss, whatever the requests were; so the bets of `evidence` hold as they are, and only the
pairs disagree more often, and it takes more of them.

Each outcome is in one pair at most, in the order in which outcomes became known, so that nobody who looks at them
chooses. A device counts with `MOST_OF_ONE` outcomes at most. A pair belongs to two devices, and the evidence is weighed
twice, as that of the devices that served the new release and as that of those that served the old one: the smaller of
the two e-values is one, too, so neither a device of the cohort nor one of the control decides alone.

What is proven: where all devices draw alike, a harmless release is halted in at most half of `alpha`. Devices differ,
though, and the release is not why. Such a device wins or loses again and again, by which of the two arms it was put
into, and a wealth that is bet again and again wins more by that than it loses: over a hundred devices it adds up to a
proof of nothing. So what a device gains is no more than what it would lose by the opposite of what it showed, which
makes it a fair bet on its arm (`MATCHED`), and `FAIR` at most: it takes seven devices of each that agree, at an `alpha`
of 0.05, and forged outcomes of one never do. That this is enough is simulated: `tests/fleet/rollouts/test_matching.py`,
over devices whose shares of right answers differ by ten points, and over such of which half are always wrong. Where few
devices differ much, there is not enough evidence, and never a verdict by luck.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from msgspec import Struct, structs

from fleet.rollouts.bets import RESERVE, STAKES, Bets, Counts, Floats, harm_gains, health_gains, with_reserve
from fleet.rollouts.evidence import PairedEvidence
from fleet.rollouts.pairs import Counted, Pairs, counted

FAIR = math.log(2.0 - RESERVE)  # that one device brings at most
MOST_OF_ONE = 1000  # outcomes of a device that count: labels in an attempt, windows in each of its stages
DIFFER = 0.2  # of such pairs differ though both releases are as good: one in nine answers is wrong


class JudgedAnswer(NamedTuple):
    """One answer of a device, and whether it was right."""

    device: str
    right: bool


class Matched(Struct, frozen=True, kw_only=True):
    """Pairs by the device that served the new release, and the same ones by that which served the old one; outcomes of
    `new` and `old` that wait for one of the other. `whys`: of `new` and `old`, what was not right how often."""

    by_new: dict[str, Pairs] = {}
    by_old: dict[str, Pairs] = {}
    waiting_new: int = 0
    waiting_old: int = 0
    whys: dict[str, dict[str, int]] = {}

    def of_new(self, margin: float) -> Counted:
        """The pairs by the devices of the new release, at the margin of a test."""
        return counted(self.by_new, margin, MATCHED)

    def of_old(self, margin: float) -> OfOld:
        """The pairs by the devices of the old release, at the margin of a test."""
        found = [
            f"with the {release} release {', '.join(f'{count} {why}' for why, count in whys.items())}"
            for release, whys in self.whys.items()
        ]
        return OfOld(counted(self.by_old, margin, MATCHED), "; ".join(found))


class OfOld(NamedTuple):
    """Pairs by the devices of the old release, and what was not right, in words."""

    pairs: Counted
    whys: str = ""


def _harm(only_old: Counts, only_new: Counts) -> Floats:
    """As `bets.harm_gains`, fair."""
    return _fair(harm_gains(only_old, only_new), harm_gains(only_new, only_old))


def _health(only_old: Counts, only_new: Counts, same: Counts, margin: float) -> Floats:
    """As `bets.health_gains`, fair."""
    stakes = STAKES / (1.0 - margin)
    # Some of the largest stakes are lost at once by the opposite of a pair that only the new release gets right.
    lost = np.log(np.maximum(1.0 - stakes * (1.0 + margin), 1e-300))
    opposite = with_reserve(
        np.multiply.outer(only_old, np.log1p(STAKES))
        + np.multiply.outer(only_new, lost)
        + np.multiply.outer(same, np.log1p(-stakes * margin))
    )
    return _fair(health_gains(only_old, only_new, same, margin), opposite)


def _fair(gains: Floats, opposite: Floats) -> Floats:
    """The mean of what is gained here and of what is by the opposite, as factors, is one at most."""
    found: Floats = np.minimum(gains, np.log(2.0 - np.exp(np.minimum(opposite, FAIR))))
    return found


MATCHED = Bets(_harm, _health, FAIR)


def match(new: Iterable[JudgedAnswer], old: Iterable[JudgedAnswer]) -> Matched:
    """Match the outcomes of two releases, each in the order in which they became known."""
    first, second = list(_counted(new)), list(_counted(old))
    by_new: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_old: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one, other in zip(first, second, strict=False):
        name = _outcome(one.right, other.right)
        by_new[one.device][name] += 1
        by_old[other.device][name] += 1
    pairs = min(len(first), len(second))
    return Matched(
        by_new={device: Pairs(**counts) for device, counts in by_new.items()},
        by_old={device: Pairs(**counts) for device, counts in by_old.items()},
        waiting_new=len(first) - pairs,
        waiting_old=len(second) - pairs,
    )


def weaker(new: PairedEvidence, old: PairedEvidence) -> PairedEvidence:
    """The evidence of pairs by the devices of the new release, no stronger than by those of the old one."""
    unsure = new.loss_at_most is None or old.loss_at_most is None
    return structs.replace(
        new,
        seen_on=min(new.seen_on, old.seen_on),
        harm_e=min(new.harm_e, old.harm_e),
        health_e=min(new.health_e, old.health_e),
        odd=(),  # a device that differs from others is not odd
        loss_at_most=None if unsure else max(new.loss_at_most or 0.0, old.loss_at_most or 0.0),
    )


def _counted(outcomes: Iterable[JudgedAnswer]) -> Iterator[JudgedAnswer]:
    counts: Counter[str] = Counter()
    for one in outcomes:
        counts[one.device] += 1
        if counts[one.device] <= MOST_OF_ONE:
            yield one


def _outcome(new: bool, old: bool) -> str:
    if new == old:
        return "both" if new else "neither"
    return "only_new" if new else "only_old"
