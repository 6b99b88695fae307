"""Is it worth asking the cloud? Pure: labelled samples in; both accuracies with their intervals, and a verdict, out.

Samples that were drawn at random say how right the device's own answers are. Samples that the cloud answered, too, say
how right both are where it was asked: of these, all reasons count but "outlying", since devices keep each with the same
chance. The verdict looks only at samples that one of the two answered right, so it holds even where people label what
they find interesting, as long as they do not choose by which of the two was right.

Requests of one device in one hour are alike, so a device's hour is the unit: its samples together are one vote, for
whoever was right more often. Votes are bet against "the cloud wins at least half of them", and against the reverse; the
evidence may be looked at after every label (`fleet.rollouts.evidence`), and holds without the devices that bring most
of it (`fleet.rollouts.collusion`). Intervals are Wilson's (JASA 22, 1927) for as many samples as there are hours, of
unequal size (Kish, Survey Sampling, 1965): too wide rather than too narrow.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from fleet.protocol.durations import HOUR_S
from fleet.rollouts.collusion import colluders
from fleet.rollouts.evidence import paired
from fleet.rollouts.pairs import Pairs

ALPHA = 0.05  # of a verdict in either direction, together
Z = 1.959964  # of a 95 % interval
MIN_UNITS = 10  # device-hours below which an interval says nothing
Verdict = Literal["better", "worse", "not enough evidence"]
BETTER: Verdict = "better"
WORSE: Verdict = "worse"
UNKNOWN: Verdict = "not enough evidence"


class Labelled(NamedTuple):
    """One labelled sample: was the device's own answer right, and the cloud's, where it gave one?"""

    device_id: str
    at: float
    drawn_at_random: bool
    device_right: bool
    cloud_right: bool | None = None

    @property
    def unit(self) -> tuple[str, int]:
        """The device's hour."""
        return self.device_id, int(self.at // HOUR_S)


class Estimate(Struct, frozen=True, kw_only=True):
    """A share of right answers with its 95 % interval, in [0, 1]; of `samples` from `hours` device-hours."""

    share: float
    low: float
    high: float
    samples: int
    hours: int


class Judgment(Struct, frozen=True, kw_only=True):
    """The accuracy of the device, that of both where the cloud was asked, and the verdict on asking it.

    An estimate is None below `MIN_UNITS` device-hours. `compared` are the samples with both answers, of which
    `only_device` and `only_cloud` were answered right by one alone. `reason` is the verdict in words.
    """

    device: Estimate | None
    asked_device: Estimate | None
    asked_cloud: Estimate | None
    compared: int
    only_device: int
    only_cloud: int
    verdict: Verdict
    reason: str


def judge(samples: Sequence[Labelled]) -> Judgment:
    """Judge the labelled samples of one release, in any order."""
    asked = [sample for sample in samples if sample.cloud_right is not None]
    only_device = sum(sample.device_right and not sample.cloud_right for sample in asked)
    only_cloud = sum(bool(sample.cloud_right) and not sample.device_right for sample in asked)
    verdict, reason = _verdict(asked)
    return Judgment(
        device=estimate([s for s in samples if s.drawn_at_random], lambda s: s.device_right),
        asked_device=estimate(asked, lambda s: s.device_right),
        asked_cloud=estimate(asked, lambda s: bool(s.cloud_right)),
        compared=len(asked),
        only_device=only_device,
        only_cloud=only_cloud,
        verdict=verdict,
        reason=reason,
    )


def estimate(samples: Iterable[Labelled], right: Callable[[Labelled], bool]) -> Estimate | None:
    """The share of right answers; None where there are too few device-hours to say how far off it may be."""
    units: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for sample in samples:
        units[sample.unit][0] += right(sample)
        units[sample.unit][1] += 1
    if len(units) < MIN_UNITS:
        return None
    hits, count = (sum(part) for part in zip(*units.values(), strict=True))
    share = hits / count
    # Kish's effective number of hours: samples of an hour are taken to be as alike as can be.
    worth = count * count / sum(size * size for _, size in units.values())
    # Wilson's interval.
    centre = (share + Z * Z / (2 * worth)) / (1 + Z * Z / worth)
    half = Z / (1 + Z * Z / worth) * math.sqrt(share * (1 - share) / worth + Z * Z / (4 * worth * worth))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(share=share, low=min(low, share), high=max(high, share), samples=count, hours=len(units))


def _verdict(asked: list[Labelled]) -> tuple[Verdict, str]:
    if not asked:
        return UNKNOWN, "no labelled sample has an answer of the cloud"
    net: defaultdict[tuple[str, int], int] = defaultdict(int)
    for sample in asked:
        net[sample.unit] += bool(sample.cloud_right) - sample.device_right
    device, cloud = (sum(sign * vote > 0 for vote in net.values()) for sign in (-1, 1))
    on = len({name for (name, _), vote in net.items() if vote})
    votes = f"of {len(asked)} labelled samples; where they differ, the device was right more often in "
    votes += f"{_hours(device)}, the cloud in {_hours(cloud)}, on {on} {'device' if on == 1 else 'devices'}"
    directions: tuple[tuple[Verdict, int, str], ...] = (
        (WORSE, -1, "the cloud's answers are worse"),
        (BETTER, 1, "the cloud helps"),
    )
    for verdict, sign, words in directions:
        pairs: defaultdict[str, Pairs] = defaultdict(Pairs)
        for (name, _), vote in net.items():
            known = pairs[name]
            against, with_it = known.only_new + (sign * vote < 0), known.only_old + (sign * vote > 0)
            pairs[name] = Pairs(both=known.both + (not vote), only_old=with_it, only_new=against)
        found = paired(pairs, margin=0.5, harm_alpha=ALPHA / 2, health_alpha=ALPHA / 2, colluding=colluders(len(pairs)))
        if found.harm_e >= 2 / ALPHA:
            return verdict, f"{words}: {votes}"
    return UNKNOWN, f"not enough evidence: {votes}"


def _hours(count: int) -> str:
    return f"{count} {'hour' if count == 1 else 'hours'}"
