"""The shadow stage: does the new release answer as the one that serves, before anybody is served?

Devices compare distinct inputs by the model's task; what they find is judged as the guard judges audited pairs, with
the release that serves in the auditor's place: bets whose unit is the device, in which one device of several decides
nothing (`evidence`). An answer that differs may be the better one: how much may differ is the operator's to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct, structs

from fleet.protocol.shadow import CPU_SHARE
from fleet.rollouts import bets, evidence
from fleet.rollouts.bets import Counts
from fleet.rollouts.claims import SharedInputs, contradicted
from fleet.rollouts.collusion import colluders
from fleet.rollouts.errors import PlanError
from fleet.rollouts.evidence import PairedEvidence
from fleet.rollouts.guard import Failures, Judgement, by_reason
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.pairs import Pairs

BAD = ("selftest-failed", "selftest-timeout", "crash-loop", "non-finite")  # what speaks against the release
AGREE, DIFFER = "both", "only_old"  # as outcomes of audited pairs have it (`claims`)
MOST_S = 366 * 86_400.0
MOST_INPUTS = 1_000_000
VOTES = ("outvoted", "checked")


class ShadowPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The conditions of the stage, all of which it asks for: at least `seconds`, `inputs` distinct ones on at least
    `devices` devices, and proof, at the guard's confidence, that at least the share `agreement` of the answers is the
    same. Each device gives it `cpu_share` of one processor core."""

    seconds: float = 0.0
    inputs: int = 100
    devices: int = 2
    agreement: float = 0.9
    cpu_share: float = CPU_SHARE

    @property
    def margin(self) -> float:
        """The share of answers that may differ."""
        return 1.0 - self.agreement

    def goal(self, alpha: float) -> str:
        """Return the result that the stage shows when it ends, in words."""
        return f"at least {100 * self.agreement:g} % of the answers are the same, at {100 * (1 - alpha):g} %"


class ShadowSeen(Struct, frozen=True, kw_only=True):
    """One device's counts in the attempt; see `fleet.protocol.shadow.ShadowCounts`. Of distinct inputs `agree` and
    `differ` count those that are its own; `claimed`, `own_differ`, `checked`, `outvoted` and `disputed` are as in
    `pairs.Pairs`.
    """

    device_id: str
    agree: int = 0
    differ: int = 0
    repeats: int = 0
    non_finite: int = 0
    failed: int = 0
    crashed: int = 0
    dropped: int = 0
    old_us: int = 0
    new_us: int = 0
    claimed: int = 0
    own_differ: int = 0
    checked: int = 0
    outvoted: int = 0
    disputed: int = 0
    reason: str = ""

    @property
    def pairs(self) -> Pairs:
        """Its counts as those of audited pairs, with the release that serves in the auditor's place."""
        return Pairs(
            both=self.agree,
            only_old=self.differ,
            repeats=self.repeats,
            claimed=self.claimed,
            own_old=self.own_differ,
            checked=self.checked,
            outvoted=self.outvoted,
            disputed=self.disputed,
        )

    @property
    def against(self) -> str:
        """The reason that speaks against the release here, in a word; empty where nothing does."""
        return self.reason if self.reason.startswith(BAD) else "non-finite" if self.non_finite else ""


class ShadowFacts(Struct, frozen=True, kw_only=True):
    """The facts about a shadow stage; `shared` are the inputs that several devices have met; `deaf_until`, `withdrawn`
    and `superseded` are as in `facts.RolloutFacts`."""

    seen: tuple[ShadowSeen, ...] = ()
    shared: SharedInputs = SharedInputs()
    deaf_until: float = 0.0
    withdrawn: str = ""
    superseded: str = ""


class ShadowVerdict(Struct, frozen=True, kw_only=True):
    """The judgement, why, and what it rests on: `inputs` distinct ones on `devices` devices, of which `differ` got
    another answer (`differ_at_most`: the smallest share that is excluded, None: none of up to one half). Devices
    contradict one another on `disputed` ones, and `contradicted` are outvoted. `not_compared`
    are devices that compare nothing, by reason, and `against` those that speak against the release. `slower` is how
    many times the new release's time the old one's was, by the processor; None: nothing tells."""

    judgement: Judgement
    reason: str
    goal: str = ""
    devices: int = 0
    inputs: int = 0
    differ: int = 0
    differ_at_most: float | None = None
    repeats: int = 0
    non_finite: int = 0
    failed: int = 0
    crashed: int = 0
    dropped: int = 0
    slower: float | None = None
    not_compared: tuple[Failures, ...] = ()
    against: tuple[Failures, ...] = ()
    disputed: int = 0
    contradicted: tuple[str, ...] = ()
    health_e: float = 1.0
    harm_e: float = 1.0


class ShadowForecast(Struct, frozen=True, kw_only=True):
    """The needs of the stage: at least `seconds`, and `inputs` distinct ones where every answer is the same (more where
    some differ); `devices` can do it, the agents of `unable` ones cannot, and prove nothing."""

    goal: str
    seconds: float
    inputs: int
    devices: int
    unable: int
    cpu_share: float


def check_shadow_plan(plan: ShadowPlan) -> ShadowPlan:
    """The plan; PlanError says which of its numbers is out of bounds."""
    bounds = {
        "seconds": (0 <= plan.seconds <= MOST_S, f"from 0 to {MOST_S:.0f}, a year"),
        "inputs": (1 <= plan.inputs <= MOST_INPUTS, f"from 1 to {MOST_INPUTS}"),
        "devices": (1 <= plan.devices <= MOST_INPUTS, f"from 1 to {MOST_INPUTS}"),
        "agreement": (0.5 <= plan.agreement < 1.0, "a share from 0.5 to below 1; 0.9 is 90 %"),
        "cpu_share": (0.0 < plan.cpu_share <= 1.0, "above 0, at most 1 (one processor core)"),
    }
    for name, (good, hint) in bounds.items():
        if not good:
            what = f"the shadow stage's {name} is {getattr(plan, name):g}, out of bounds"
            raise PlanError(what, subject="shadow", hint=hint)
    return plan


def least_inputs(plan: ShadowPlan, alpha: float) -> int:
    """The distinct inputs that the stage takes where every answer is the same, spread evenly over its devices."""
    low, high = 0, plan.inputs
    while not _proves(plan, alpha, high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _proves(plan, alpha, middle) else (middle, high)
    return max(high, plan.inputs)


def _proves(plan: ShadowPlan, alpha: float, inputs: int) -> bool:
    devices = min(plan.devices, 100)
    agree, differ = np.full(devices, inputs // devices), np.zeros(devices)
    return _bets(plan, colluders(devices), agree, differ, SharedInputs())[0] >= 1 / alpha


def judge_shadow(plan: ShadowPlan, policy: GuardPolicy, facts: ShadowFacts, elapsed_s: float) -> ShadowVerdict:
    """Judge a shadow stage.

    Args:
        plan: the stage's terms.
        policy: gives the confidence, and how many devices may fail.
        facts: the counts of each device, and those of the inputs that several have met.
        elapsed_s: seconds since the stage began.
    """
    pairs = {one.device_id: one.pairs for one in facts.seen}
    alpha = policy.alpha
    weighed = evidence.paired(
        pairs,
        margin=plan.margin,
        harm_alpha=alpha,
        health_alpha=alpha,
        colluding=policy.colluding(max(plan.devices, len(pairs))),
        shared=facts.shared,
    )
    found = _sums(plan, policy, facts, weighed)
    harm = _harm(plan, policy, found)
    lack = harm or _lack(plan, policy, found, elapsed_s)
    judgement: Judgement = "harmful" if harm else "not-enough-evidence" if lack else "healthy"
    return structs.replace(found, judgement=judgement, reason=lack or f"{found.goal}: {_shown(found)}")


def _bets(plan: ShadowPlan, colluding: int, agree: Counts, differ: Counts, shared: SharedInputs) -> tuple[float, float]:
    """E-values against "too much differs" and against "no more differs than may", of (devices,) counts and of what is
    disputed, without those of any `colluding` devices."""
    lost, every = np.array([shared.maybe_old]), np.array([shared.disputed])
    health = bets.beside(
        bets.health_gains(differ, 0 * differ, agree, plan.margin),
        bets.health_gains(lost, 0 * lost, every - lost, plan.margin, reserve=0.0),
        without=colluding,
    )
    harm = bets.beside(
        bets.excess_gains(differ, agree, plan.margin),
        bets.excess_gains(0 * every, every, plan.margin, reserve=0.0),
        without=colluding,
    )
    health_e, harm_e = (math.exp(min(float(log_e), 30.0)) for log_e in (health, harm))
    return min(health_e, bets.LARGEST), min(harm_e, bets.LARGEST)


def _sums(plan: ShadowPlan, policy: GuardPolicy, facts: ShadowFacts, weighed: PairedEvidence) -> ShadowVerdict:
    seen = facts.seen
    total: dict[str, int] = {
        name: sum(getattr(one, name) for one in seen)
        for name in ("repeats", "non_finite", "failed", "crashed", "dropped", "old_us", "new_us")
    }
    old_us, new_us = total.pop("old_us"), total.pop("new_us")
    differ, _, agree = np.array([(one.differ, 0, one.agree) for one in seen], np.int64).reshape(-1, 3).T
    own_differ, _, own_agree = np.array([one.pairs.own for one in seen], np.int64).reshape(-1, 3).T
    doubted = contradicted(*(np.array([getattr(one, name) for one in seen], np.int64) for name in VOTES))
    told = (own_agree + own_differ > 0) & ~doubted
    distinct = _bets(plan, weighed.colluding, agree[told], differ[told], facts.shared)
    own = _bets(plan, weighed.colluding, own_agree[told], own_differ[told], SharedInputs())
    health_e, harm_e = map(min, distinct, own)  # see `evidence`
    return ShadowVerdict(
        judgement="not-enough-evidence",
        reason="",
        goal=plan.goal(policy.alpha),
        devices=weighed.devices,
        inputs=weighed.pairs,
        differ=weighed.only_old,
        differ_at_most=weighed.loss_at_most,
        slower=round(new_us / old_us, 3) if old_us else None,
        not_compared=by_reason((one.device_id, one.reason) for one in seen if one.reason and not one.against),
        against=by_reason((one.device_id, one.against) for one in seen if one.against),
        disputed=weighed.disputed,
        contradicted=weighed.contradicted,
        health_e=health_e,
        harm_e=harm_e,
        **total,
    )


def _harm(plan: ShadowPlan, policy: GuardPolicy, found: ShadowVerdict) -> str:
    """Return why the release is harmful, or an empty string. One device of several decides nothing."""
    against = sum(one.devices for one in found.against)
    if against >= min(2, plan.devices) and _too_many(policy, found):
        return f"{_devices(against)} speak against the release: {_in_words(found.against)}"
    if found.harm_e >= 1 / policy.alpha and found.differ > plan.margin * found.inputs:
        share = 100 * found.differ / found.inputs
        return (
            f"{share:.3g} % of {found.inputs} answers differ, {100 * plan.margin:.3g} % may "
            f"(e-value {found.harm_e:.3g}, {1 / policy.alpha:.3g} is proof)"
        )
    return ""


def _lack(plan: ShadowPlan, policy: GuardPolicy, found: ShadowVerdict, elapsed_s: float) -> str:
    """Return the evidence that is missing, or an empty string."""
    missing = _missing(plan, policy, found)
    if not missing and elapsed_s < plan.seconds:
        missing = f"{elapsed_s:.0f} s of {plan.seconds:g} s"
    if not missing:
        return ""
    silent = f"; not compared on {_in_words(found.not_compared)}" if found.not_compared else ""
    return f"not enough evidence: {missing}{silent}"


def _missing(plan: ShadowPlan, policy: GuardPolicy, found: ShadowVerdict) -> str:
    if _too_many(policy, found):
        return f"{_in_words(found.against)}, which neither is health nor shows harm"
    if found.devices < plan.devices:
        return f"{_devices(found.devices)} compared inputs, {plan.devices} must"
    if found.inputs < plan.inputs:
        return f"{found.inputs} distinct inputs were compared, {plan.inputs} must be"
    differ = found.differ + found.disputed
    if found.health_e < 1 / policy.alpha or differ > plan.margin * found.inputs:  # where devices differ
        proof = f"e-value {found.health_e:.3g}, {1 / policy.alpha:.3g} is proof"
        return f"it is not shown yet that {found.goal}: {_shown(found)} ({proof})"
    return ""


def _too_many(policy: GuardPolicy, found: ShadowVerdict) -> bool:
    against = sum(one.devices for one in found.against)
    return against > policy.max_install_failures * max(found.devices, against)


def _shown(found: ShadowVerdict) -> str:
    most = "any share is possible" if found.differ_at_most is None else f"at most {100 * found.differ_at_most:.3g} % do"
    odd = f"; on {found.disputed} more devices contradict one another" if found.disputed else ""
    if found.contradicted:
        odd += f"; others contradict {', '.join(found.contradicted)}"
    return f"{found.differ} of {found.inputs} answers on {_devices(found.devices)} differ ({most}){odd}"


def _in_words(failures: Sequence[Failures]) -> str:
    return ", ".join(f"{one.reason} on {_devices(one.devices)}, such as {one.example}" for one in failures)


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
