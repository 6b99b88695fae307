"""Anytime-valid evidence from counts: e-values that may be looked at after every report.

An e-value is the wealth of a gambler who bets against a hypothesis with fair stakes: while the
hypothesis holds, the chance that it ever reaches 1/alpha is at most alpha, however often one looks
(Ville's inequality). All bets here are mixtures over a fixed grid of stakes, so that they depend on
counts and not on the order in which reports arrive, and they are computed with logarithms.

The paired bets treat each pair as one more draw of what the fleet sees. That holds for distinct inputs only: a scene
that comes again, on the same device or on another, says nothing new, so it counts once. Inputs that are alike without
being equal (the frames of a video) still count each.

- harm, paired: "of the requests that only one release answers right, the new one gets at least half".
- health, paired: "the new release loses at least `margin` of all requests, net".
- excess, of a shadow stage: "at most `margin` of all answers differ".
- installs: "a device of the cohort fails no sooner than one of the concurrent control".

Per device, a reserve of the stake is never bet, so that one device with a run of bad luck cannot
erase what the others show; and each device's gain is capped below the threshold, so that one odd device does not
decide, nor one that forges its counts: for harm in every cohort of several devices, for health where several meet
inputs. Both keep the bound: a reserve is a bet of stake zero, and a cap only lowers the wealth.

Inputs that several devices have met are bets of their own, beside those of the devices, with a reserve and no cap: no
device alone has said what they show (`claims`). What is disputed there counts against what is to be shown, which only
lowers the wealth. An input leaves its device's bets when a second device meets it, whatever its outcome: the wealth
stays fair at any one look, and that many looks bring no more than they should is simulated (`tests/…/test_claims.py`).

Sources: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
86(1), 2024; Shafer, "Testing by betting", JRSS-A 184(2), 2021; Howard, Ramdas, McAuliffe & Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2), 2021;
Grünwald, Ly, Pérez-Ortiz & ter Schure, "The safe logrank test", 2021 (failures in two arms).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from fleet.rollouts.bets import (
    AUDITED,
    CAP,
    STAKES,
    Bets,
    Counts,
    Floats,
    _bounded,
    beside,
    harm_gains,
    health_gains,
    pooled,
)
from fleet.rollouts.claims import LEAST_OUTVOTED, SharedInputs, most

MIN_DEVICE_PAIRS = 5  # below, a device's inputs are too few to cap what the others show of health
MIN_ARM = 5  # devices per arm and hardware class for a comparison with the control
GROUPS = 1000  # of devices, for the bound on the loss: it is looked for at every step


class Pairs(Struct, frozen=True, kw_only=True):
    """One device's audited pairs of distinct inputs, counted as in `fleet.protocol.telemetry.PairCounts`.

    They are of inputs that it alone has met. Beside them, and no evidence: `repeats` of inputs that are counted
    already, here or on another device, and pairs whose inputs the agent did not name (`unnamed`), which may be repeats.
    `claimed` are all inputs of which it said something first or second; of these others say otherwise of the
    `outvoted`, and it is open of the `disputed` who is right (`claims`).
    """

    both: int = 0
    only_old: int = 0
    only_new: int = 0
    neither: int = 0
    repeats: int = 0
    unnamed: int = 0
    claimed: int = 0
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


class PairedEvidence(Struct, frozen=True, kw_only=True):
    """The summed counts and what they prove; `repeats` and `unnamed` are left out of `pairs`.

    Of the pairs, `shared` are of inputs that several devices have met, and on `disputed` ones among these devices
    contradict one another, `disputing` for example; `contradicted` names devices that are outvoted.
    `seen_on` is how many devices brought any of these, repeats included; `harm_e` and `health_e` are e-values (at most
    10¹²);
    `loss_at_most` is the smallest net loss that the pairs exclude with the confidence of the health test, however often
    one looks (None: none of up to one half); `odd` names devices whose own pairs alone show harm, after a correction
    for their number."""

    pairs: int = 0
    both: int = 0
    only_old: int = 0
    only_new: int = 0
    neither: int = 0
    devices: int = 0
    seen_on: int = 0
    repeats: int = 0
    unnamed: int = 0
    harm_e: float = 1.0
    health_e: float = 1.0
    loss_at_most: float | None = None
    odd: tuple[str, ...] = ()
    shared: int = 0
    disputed: int = 0
    disputing: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()

    @property
    def seen(self) -> int:
        """All pairs that came, evidence or not."""
        return self.pairs + self.repeats + self.unnamed


class Counted(NamedTuple):
    """The pairs of many devices, in columns.

    Beside the sums over all devices, what those brought that have pairs that count, in the order of their names: the
    counts (int64, (devices,)) and the logarithms of each device's gains (float64, (devices, stakes)) as `harm_gains`
    and `health_gains` give them for the margin of the test. `claiming` devices say something of inputs, `several` of
    them of at least `MIN_DEVICE_PAIRS`; `shared` are the inputs that several have met.
    """

    names: Sequence[str]
    both: Counts
    only_old: Counts
    only_new: Counts
    neither: Counts
    harm: Floats
    health: Floats
    seen_on: int
    repeats: int
    unnamed: int
    claiming: int
    several: int
    shared: SharedInputs = SharedInputs()
    disputing: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()


class Arms(Struct, frozen=True, kw_only=True):
    """Devices of one hardware class by assignment, and how many of them failed."""

    hardware: str = ""
    cohort: int
    cohort_failed: int
    control: int
    control_failed: int


class InstallEvidence(Struct, frozen=True, kw_only=True):
    """Sums over the hardware classes that had enough devices in both arms; `harm_e` is an e-value."""

    cohort: int = 0
    cohort_failed: int = 0
    control: int = 0
    control_failed: int = 0
    harm_e: float = 1.0


def harm_log_e(only_old: Counts, only_new: Counts, *, cap: float = math.inf) -> Floats:
    """Compute the log e-value against "the new release wins at least half of the discordant pairs"; see
    `harm_gains`, `pooled`."""
    return pooled(harm_gains(only_old, only_new), cap=cap)


def health_log_e(only_old: Counts, only_new: Counts, same: Counts, margin: float, *, cap: float = math.inf) -> Floats:
    """Compute the log e-value against "the share only_old - only_new of all pairs is at least `margin`"; see
    `health_gains`."""
    return pooled(health_gains(only_old, only_new, same, margin), cap=cap)


def paired(
    by_device: Mapping[str, Pairs],
    *,
    margin: float,
    harm_alpha: float,
    health_alpha: float,
    devices: int = 1,
    shared: SharedInputs | None = None,
) -> PairedEvidence:
    """Weigh the audited pairs of each device, in any order.

    Args:
        by_device: counts by device.
        margin, harm_alpha, health_alpha: as in `weigh`.
        devices: devices that could have brought pairs.
        shared: inputs that several devices have met.
    """
    found = counted(by_device, margin, shared=shared)
    return weigh(found, margin=margin, harm_alpha=harm_alpha, health_alpha=health_alpha, devices=devices)


def counted(
    by_device: Mapping[str, Pairs], margin: float, bets: Bets | None = None, shared: SharedInputs | None = None
) -> Counted:
    """Put the pairs of each device into columns, with their gains.

    Args:
        by_device: counts by device; one without pairs is left out.
        margin: net loss per request that is no longer tolerable.
        bets: those that bring the gains; None for an auditor's.
        shared: inputs that several devices have met.
    """
    bets, names = bets or AUDITED, sorted(by_device)
    outvoted, disputed = (np.array([getattr(by_device[n], name) for n in names]) for name in ("outvoted", "disputed"))
    named = sorted((name, p) for name, p in by_device.items() if p.total > 0)
    both, old, new, neither = (
        np.array([getattr(p, name) for _, p in named], np.int64) for name in ("both", "only_old", "only_new", "neither")
    )
    return Counted(
        names=[name for name, _ in named],
        both=both,
        only_old=old,
        only_new=new,
        neither=neither,
        harm=bets.harm(old, new),
        health=bets.health(old, new, both + neither, margin),
        seen_on=sum(p.inputs + p.repeats > 0 for p in by_device.values()),
        repeats=sum(p.repeats for p in by_device.values()),
        unnamed=sum(p.unnamed for p in by_device.values()),
        claiming=sum(p.inputs > 0 for p in by_device.values()),
        several=sum(p.inputs >= MIN_DEVICE_PAIRS for p in by_device.values()),
        shared=shared or SharedInputs(),
        disputing=most(names, disputed, 1),
        contradicted=most(names, outvoted, LEAST_OUTVOTED),
    )


def weigh(
    found: Counted,
    *,
    margin: float,
    harm_alpha: float,
    health_alpha: float,
    devices: int = 1,
    bets: Bets | None = None,
) -> PairedEvidence:
    """Weigh the pairs, and return what they prove.

    Args:
        found: the counts of each device's pairs.
        margin: net loss per request that is no longer tolerable, as in `found`.
        harm_alpha: chance of a false proof of harm, in (0, 1).
        health_alpha: chance of a false proof of health, in (0, 1).
        devices: devices that could have brought pairs.
        bets: those of `found`; None for an auditor's.
    """
    bets, shared = bets or AUDITED, found.shared
    if not found.names and not shared.total:
        return PairedEvidence(repeats=found.repeats, unnamed=found.unnamed, seen_on=found.seen_on)
    old, new, same = found.only_old, found.only_new, found.both + found.neither
    harm_cap = CAP * math.log(1 / harm_alpha) if max(devices, found.claiming) >= 2 else math.inf
    several = found.several >= 2 or shared.total >= MIN_DEVICE_PAIRS
    health_cap = CAP * math.log(1 / health_alpha) if several else math.inf
    if bets.cap is not None:
        harm_cap = health_cap = bets.cap
    lost, won, even = (np.array([count]) for count in shared.at_worst)
    best = bets.harm(*(np.array([count]) for count in shared.at_best))

    def health(margin: float, gains: Floats) -> Floats:
        return beside(gains, bets.health(lost, won, even, margin), health_cap)

    return PairedEvidence(
        pairs=int((old + new + same).sum()) + shared.total,
        both=int(found.both.sum()) + shared.both,
        only_old=int(old.sum()) + shared.only_old,
        only_new=int(new.sum()) + shared.only_new,
        neither=int(found.neither.sum()) + shared.neither,
        devices=found.claiming,
        seen_on=found.seen_on,
        repeats=found.repeats,
        unnamed=found.unnamed,
        harm_e=_bounded(float(beside(found.harm, best, harm_cap))),
        health_e=_bounded(float(health(margin, found.health))),
        loss_at_most=_loss_at_most(
            lambda at: health(at, bets.health(_grouped(old), _grouped(new), _grouped(same), at)),
            math.log(1 / health_alpha),
        ),
        odd=_odd(found, math.log(len(found.names) / harm_alpha)) if found.names else (),
        shared=shared.total,
        disputed=shared.disputed,
        disputing=found.disputing,
        contradicted=found.contradicted,
    )


def _odd(found: Counted, bar: float) -> tuple[str, ...]:
    """The devices whose own pairs reach the bar; what the largest stake gains bounds what all of them do."""
    likely = np.flatnonzero(found.harm.max(axis=-1) >= bar - 1e-9)
    alone = pooled(found.harm[likely][:, None, :])
    return tuple(found.names[int(at)] for at, log_e in zip(likely, alone, strict=True) if log_e >= bar)


def installs(arms: Sequence[Arms], *, cap: float = math.inf) -> InstallEvidence:
    """Evidence that the cohort fails more than its concurrent control, per hardware class.

    Under equal hazards the next failure falls on the cohort with probability (cohort devices still
    whole) / (all devices still whole): the price of a bet on it. A bet of a share s of the wealth pays
    1 + s (1/price - 1) when the cohort fails and leaves 1 - s when the control does. The order of the failures is not
    known, and the cohort's are dearest where the control's came first: at these prices the bets bring at most the
    wealth of the exact ones, in whichever order the failures came, and no further failure of the cohort takes from it.

    Args:
        cap: largest logarithm that one failure brings, so that one device decides nothing, however small the cohort is.
    """
    used = [a for a in arms if a.cohort >= MIN_ARM and a.control >= MIN_ARM]
    log_e = np.zeros(len(STAKES))
    for arm in used:
        left = arm.cohort - np.arange(arm.cohort_failed)  # of the cohort, before each of its failures
        odds = (arm.control - arm.control_failed) / left  # 1/price - 1
        log_e = log_e + np.minimum(np.log1p(STAKES * odds[:, None]), cap).sum(axis=0)
        log_e = log_e + arm.control_failed * np.log1p(-STAKES)
    return InstallEvidence(
        cohort=sum(a.cohort for a in used),
        cohort_failed=sum(a.cohort_failed for a in used),
        control=sum(a.control for a in used),
        control_failed=sum(a.control_failed for a in used),
        harm_e=_bounded(float(np.logaddexp.reduce(log_e) - math.log(len(STAKES)))),
    )


def _grouped(counts: Counts) -> Counts:
    """The counts of at most `GROUPS` devices; of a larger fleet the sums of as many groups, which are evidence, too."""
    if len(counts) <= GROUPS:
        return counts
    return np.add.reduceat(counts, np.linspace(0, len(counts), GROUPS, endpoint=False).astype(np.int64))


def _loss_at_most(health: Callable[[float], Floats], bar: float) -> float | None:
    """The smallest margin that passes, by bisection: what the pairs show rises with the margin."""
    low, high = 0.0, 0.5
    if float(health(high)) < bar:
        return None
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if float(health(middle)) >= bar else (middle, high)
    return high
