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

Per device, a reserve of the stake is never bet, so that one device with a run of bad luck cannot erase what the others
show: a bet of stake zero. And a verdict is judged without the devices that gain most by it (`colluding`): so many
decide nothing together, whatever they claim, and whatever luck the others have. Where only these lie, the e-value is
at most that of the honest ones.

Inputs that several devices have met count once, with one of those who say the same, drawn by lot (`claims`); what is
disputed is a bet of its own that only lowers the wealth. Whoever meets inputs of others can choose them by their
outcome, and draws some of them to itself: so the devices' own words, of all that they claim, have to prove the same,
which nobody else can change. They count an input once for each device; the smaller of the two e-values is one still.

Sources: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS-B
86(1), 2024; Shafer, "Testing by betting", JRSS-A 184(2), 2021; Howard, Ramdas, McAuliffe & Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2), 2021;
Grünwald, Ly, Pérez-Ortiz & ter Schure, "The safe logrank test", 2021 (failures in two arms).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from msgspec import Struct

from fleet.rollouts.bets import (
    AUDITED,
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
from fleet.rollouts.claims import SharedInputs
from fleet.rollouts.pairs import Counted, Pairs, Tally, counted

MIN_ARM = 5  # devices per arm and hardware class for a comparison with the control
GROUPS = 1000  # of devices, for the bound on the loss: it is looked for at every step


class PairedEvidence(Struct, frozen=True, kw_only=True):
    """The summed counts and what they prove; `repeats` and `unnamed` are left out of `pairs`.

    Of the pairs, `shared` are of inputs that several devices have met, and on `disputed` ones among these devices
    contradict one another, `disputing` for example; `contradicted` names devices that are outvoted.
    `seen_on` is how many devices brought any of these, repeats included; `harm_e` and `health_e` are e-values (at most
    10¹²) that hold without any `colluding` devices;
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
    colluding: int = 0
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


def harm_log_e(only_old: Counts, only_new: Counts, *, without: int = 0) -> Floats:
    """Compute the log e-value against "the new release wins at least half of the discordant pairs"; see
    `harm_gains`, `pooled`."""
    return pooled(harm_gains(only_old, only_new), without=without)


def health_log_e(only_old: Counts, only_new: Counts, same: Counts, margin: float, *, without: int = 0) -> Floats:
    """Compute the log e-value against "the share only_old - only_new of all pairs is at least `margin`"; see
    `health_gains`."""
    return pooled(health_gains(only_old, only_new, same, margin), without=without)


def paired(
    by_device: Mapping[str, Pairs],
    *,
    margin: float,
    harm_alpha: float,
    health_alpha: float,
    colluding: int = 0,
    shared: SharedInputs | None = None,
) -> PairedEvidence:
    """Weigh the audited pairs of each device, in any order.

    Args:
        by_device: counts by device.
        margin, harm_alpha, health_alpha, colluding: as in `weigh`.
        shared: inputs that several devices have met.
    """
    found = counted(by_device, margin, shared=shared)
    return weigh(found, margin=margin, harm_alpha=harm_alpha, health_alpha=health_alpha, colluding=colluding)


def weigh(
    found: Counted,
    *,
    margin: float,
    harm_alpha: float,
    health_alpha: float,
    colluding: int = 0,
    bets: Bets | None = None,
) -> PairedEvidence:
    """Weigh the pairs, and return what they prove.

    Args:
        found: the counts of each device's pairs.
        margin: net loss per request that is no longer tolerable, as in `found`.
        harm_alpha: chance of a false proof of harm, in (0, 1).
        health_alpha: chance of a false proof of health, in (0, 1).
        colluding: devices that decide nothing together.
        bets: those of `found`; None for an auditor's.
    """
    bets, shared = bets or AUDITED, found.shared
    if not found.names:
        return PairedEvidence(repeats=found.repeats, unnamed=found.unnamed, seen_on=found.seen_on, colluding=colluding)
    heard = found.heard  # what others contradict is no evidence, of harm or of health
    distinct, own = found.distinct.of(heard), found.own.of(heard)
    smaller = partial(_smaller, cap=bets.cap, without=colluding)
    won = np.array([shared.maybe_new])
    return PairedEvidence(
        pairs=int((distinct.old + distinct.new + distinct.same).sum()) + shared.disputed,
        both=int(found.both[heard].sum()),
        only_old=int(distinct.old.sum()),
        only_new=int(distinct.new.sum()),
        neither=int(found.neither[heard].sum()),
        devices=len(found.names),
        seen_on=found.seen_on,
        repeats=found.repeats,
        unnamed=found.unnamed,
        colluding=colluding,
        harm_e=_bounded(smaller(distinct.harm, own.harm, harm_gains(0 * won, won, reserve=0.0))),
        health_e=_bounded(smaller(distinct.health, own.health, _disputed(shared, margin))),
        loss_at_most=_loss_at_most(_health_of(distinct, own, shared, bets, colluding), math.log(1 / health_alpha)),
        odd=_odd(found, math.log(len(found.names) / harm_alpha)),
        shared=shared.total,
        disputed=shared.disputed,
        disputing=found.disputing,
        contradicted=found.contradicted,
    )


def _odd(found: Counted, bar: float) -> tuple[str, ...]:
    """The devices whose own pairs reach the bar; what the largest stake gains bounds what all of them do."""
    likely = np.flatnonzero(found.own.harm.max(axis=-1) >= bar - 1e-9)
    alone = pooled(found.own.harm[likely][:, None, :])
    return tuple(found.names[int(at)] for at, log_e in zip(likely, alone, strict=True) if log_e >= bar)


def installs(arms: Sequence[Arms], *, colluding: int = 0) -> InstallEvidence:
    """Evidence that the cohort fails more than its concurrent control, per hardware class.

    Under equal hazards the next failure falls on the cohort with probability (cohort devices still
    whole) / (all devices still whole): the price of a bet on it. A bet of a share s of the wealth pays
    1 + s (1/price - 1) when the cohort fails and leaves 1 - s when the control does. The order of the failures is not
    known, and the cohort's are dearest where the control's came first: at these prices the bets bring at most the
    wealth of the exact ones, in whichever order the failures came, and no further failure of the cohort takes from it.

    Args:
        colluding: failures that decide nothing together: those that bring most are left out.
    """
    used = [a for a in arms if a.cohort >= MIN_ARM and a.control >= MIN_ARM]
    gains, lost = [np.zeros((0, len(STAKES)))], 0
    for arm in used:
        left = arm.cohort - np.arange(arm.cohort_failed)  # of the cohort, before each of its failures
        odds = (arm.control - arm.control_failed) / left  # 1/price - 1
        gains.append(np.log1p(STAKES * odds[:, None]))
        lost += arm.control_failed
    log_e = beside(np.concatenate(gains), lost * np.log1p(-STAKES)[None], without=colluding)
    return InstallEvidence(
        cohort=sum(a.cohort for a in used),
        cohort_failed=sum(a.cohort_failed for a in used),
        control=sum(a.control for a in used),
        control_failed=sum(a.control_failed for a in used),
        harm_e=_bounded(float(log_e)),
    )


def _smaller(of_distinct: Floats, of_own: Floats, of_disputed: Floats, *, cap: float, without: int) -> float:
    """The smaller log e-value of two views of the same inputs (`claims`): counted once each, and as each device says
    itself; (devices, stakes) gains. What is disputed takes from the first."""
    return float(
        min(beside(of_distinct, of_disputed, cap=cap, without=without), pooled(of_own, cap=cap, without=without))
    )


def _disputed(shared: SharedInputs, margin: float) -> Floats:
    """Return the gains of disputed inputs in the bets on health at a margin, (1, stakes)."""
    lost = np.array([shared.maybe_old])
    return health_gains(lost, 0 * lost, shared.disputed - lost, margin, reserve=0.0)


def _health_of(
    distinct: Tally, own: Tally, shared: SharedInputs, bets: Bets, colluding: int
) -> Callable[[float], float]:
    """Return the log e-value of health by the margin.

    Of a fleet larger than `GROUPS` devices those that gain most at the policy's margin are left out first, and the
    others' counts are summed up in as many groups, which is evidence, too: it is asked for at every step.
    """
    views = distinct, own
    if len(own.old) > GROUPS:
        views, colluding = (_grouped(distinct, colluding), _grouped(own, colluding)), 0

    def health(margin: float) -> float:
        of_distinct, of_own = (bets.health(view.old, view.new, view.same, margin) for view in views)
        return _smaller(of_distinct, of_own, _disputed(shared, margin), cap=bets.cap, without=colluding)

    return health


def _grouped(view: Tally, colluding: int) -> Tally:
    """The counts of groups of devices, without those that gain most by the stake that proves most."""
    gains = view.health[:, int(view.health.sum(axis=0).argmax())]
    first = max(0, len(gains) - colluding)
    most = np.argpartition(gains, min(first, len(gains) - 1))[first:]
    left = np.ones(len(gains), bool)
    left[most[gains[most] > 0.0]] = False
    counts = [one[left] for one in (view.old, view.new, view.same)]
    begins = np.linspace(0, int(left.sum()), GROUPS, endpoint=False).astype(np.int64)
    if len(counts[0]) > GROUPS:
        counts = [np.add.reduceat(one, begins) for one in counts]
    return view._replace(old=counts[0], new=counts[1], same=counts[2])


def _loss_at_most(health: Callable[[float], float], bar: float) -> float | None:
    """The smallest margin that passes, by bisection: what the pairs show rises with the margin."""
    low, high = 0.0, 0.5
    if health(high) < bar:
        return None
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if health(middle) >= bar else (middle, high)
    return high
