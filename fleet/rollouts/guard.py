"""The guard: is the new release healthy, harmful, or is there not enough evidence?

Harm is found in three ways, and the chance that a release as good as the old one is ever called
harmful by the two statistical ones together is at most `alpha`: paired evidence, failures and silence of the
cohort against its concurrent control, and plainly too many devices that say themselves that the release failed. A
policy may also bound the latency that devices measure of the release.

One device of several decides nothing, nor do two of five or a tenth of more (`collusion`), however few of them are
reachable: what such devices show keeps the stage from ending where that is too much to be health. Where devices meet
the same inputs, what one says of them is settled by a second one (`claims`). Silence alone never halts without a
control to compare it with, and is no health, either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

from msgspec import Struct

from fleet.rollouts import collusion, evidence
from fleet.rollouts.bets import AUDITED
from fleet.rollouts.evidence import Arms, InstallEvidence, PairedEvidence
from fleet.rollouts.guard_policy import GuardPolicy, points
from fleet.rollouts.matching import MATCHED, Matched, weaker
from fleet.rollouts.pairs import Counted, Pairs, counted

FAILED = "pin those and retry, or promote by hand"
MOST_REASONS = 10  # that are kept of a step
GONE = "revoke those that are gone for good, or promote by hand"
Judgement = Literal["healthy", "harmful", "not-enough-evidence"]


class ClassLatency(Struct, frozen=True, kw_only=True):
    """The measurement of the release by `devices` of one hardware class: the median of their p95 (µs)."""

    hardware: str
    devices: int
    p95_us: float


class Failures(Struct, frozen=True, kw_only=True):
    """The number of devices that failed for a reason (`silent`: they are not heard any more), and one of them."""

    reason: str
    devices: int
    example: str


class CohortHealth(Struct, frozen=True, kw_only=True):
    """The cohort by assignment. `present` were alive when they joined; `failed` of them rolled back
    or fell silent, `examples` names some; `pending` are reachable and have neither committed nor failed. Of the
    committed ones, `untried` have not answered a single request yet: that they are whole says nothing about serving.
    `resting` have committed and are quiet since, within their habit: they are not among the present. `failures` are the
    failed ones by reason, the most frequent first."""

    present: int = 0
    committed: int = 0
    untried: int = 0
    failed: int = 0
    silent: int = 0
    pending: int = 0
    resting: int = 0
    reasons: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    failures: tuple[Failures, ...] = ()

    @property
    def in_words(self) -> str:
        """The failures in words: their number, those of them that are silent, the reasons, and an example."""
        silent = f", {self.silent} of them silent" if self.silent else ""
        why = f" ({', '.join(self.reasons)})" if self.reasons else ""
        such = f", such as {', '.join(self.examples)}" if self.examples and self.present > 1 else ""
        return f"{self.failed} of {self.present} devices failed{silent}{why}{such}"


def by_reason(failed: Iterable[tuple[str, str]]) -> tuple[Failures, ...]:
    """Failed devices, each with its reason, counted by reason; of each the first by its id is the example."""
    found: dict[str, list[str]] = {}
    for device, reason in failed:
        found.setdefault(reason or "failed", []).append(device)
    counted = [Failures(reason=why, devices=len(names), example=min(names)) for why, names in found.items()]
    return tuple(sorted(counted, key=lambda one: (-one.devices, one.reason))[:MOST_REASONS])


class GuardVerdict(Struct, frozen=True, kw_only=True):
    """The judgement, a sentence that says why, and the evidence it rests on. `goal` is what "healthy" means."""

    judgement: Judgement
    reason: str
    goal: str = ""
    paired: PairedEvidence = PairedEvidence()
    installs: InstallEvidence = InstallEvidence()
    cohort: CohortHealth = CohortHealth()
    latencies: tuple[ClassLatency, ...] = ()


def judge(
    policy: GuardPolicy,
    cohort: CohortHealth,
    pairs: Mapping[str, Pairs] | Counted | Matched,
    arms: tuple[Arms, ...] = (),
    *,
    pairs_before: int = 0,
    latencies: tuple[ClassLatency, ...] = (),
    assigned: int = 0,
) -> GuardVerdict:
    """Judge a stage.

    Args:
        pairs: per device, summed over the attempt so far; or all of them in columns, for the policy's margin; or those
            of two devices each (`matching`), which are weighed by the one and by the other.
        arms: per hardware class, cohort and control by assignment.
        pairs_before: pairs that earlier stages had already brought, repeats among them: that a stage sees what an
            earlier one has seen is no proof, but it was watched.
        latencies: what the cohort measured of the release, per hardware class.
        assigned: devices of the cohort, and those that have left it; at least those that are present.
    """
    assigned = max(assigned, cohort.present)
    paired, whys = _weighed(policy, pairs, assigned)
    installs = evidence.installs(arms, colluding=policy.colluding(assigned))
    alone = min(2, assigned)  # devices of a class that must have measured before their median decides
    slow = _too_slow(policy, [found for found in latencies if found.devices >= alone])
    harm = _harm(policy, cohort, paired, installs, assigned) or slow
    fresh = paired.seen - pairs_before
    if policy.matches and not any(arm.control for arm in arms):  # nobody is left who serves the old release
        fresh = max(fresh, policy.min_pairs)
    lack = _lack(policy, cohort, paired, fresh, latencies, assigned)
    judgement: Judgement = "harmful" if harm else "not-enough-evidence" if lack else "healthy"
    reason = harm or lack or _praise(policy, cohort, paired, latencies)
    if whys:
        reason += f"; outside of habit were {whys}"
    return GuardVerdict(
        judgement=judgement,
        reason=reason,
        goal=policy.goal,
        paired=paired,
        installs=installs,
        cohort=cohort,
        latencies=latencies,
    )


def _weighed(
    policy: GuardPolicy, pairs: Mapping[str, Pairs] | Counted | Matched, assigned: int
) -> tuple[PairedEvidence, str]:
    """Weigh the pairs; return what they prove, and the windows outside of habit, in words."""
    bets = MATCHED if policy.matches else AUDITED
    weigh = partial(
        evidence.weigh, margin=policy.margin, harm_alpha=policy.alpha / 2, health_alpha=policy.alpha, bets=bets
    )
    if isinstance(pairs, Matched):
        of_old = pairs.of_old(policy.margin)
        return weaker(weigh(pairs.of_new(policy.margin)), weigh(of_old.pairs)), of_old.whys
    found = pairs if isinstance(pairs, Counted) else counted(pairs, policy.margin, bets)
    return weigh(found, colluding=policy.colluding(max(assigned, len(found.names)))), ""


def _harm(
    policy: GuardPolicy,
    cohort: CohortHealth,
    paired: PairedEvidence,
    installs: InstallEvidence,
    assigned: int,
) -> str:
    """Return why the release is harmful, or an empty string."""
    harm_alpha = policy.alpha / 2  # two statistical tests share the false-halt budget
    said = cohort.failed - cohort.silent  # by the devices themselves
    least = min(collusion.colluders(assigned, 0.0) + 1, assigned)  # of a large cohort the operator's limit is higher
    if said > policy.max_install_failures * (cohort.present + cohort.resting) and said >= least:
        return cohort.in_words
    if paired.harm_e >= 1 / harm_alpha:
        return (
            f"of {paired.pairs} {policy.pairs}, {paired.only_old} were {policy.good} only by the old release and "
            f"{paired.only_new} only by the new one (e-value {paired.harm_e:.3g}, {1 / harm_alpha:.3g} is proof)"
        )
    if installs.harm_e >= 1 / harm_alpha:
        return (
            f"{installs.cohort_failed} of {installs.cohort} cohort devices failed, "
            f"{installs.control_failed} of {installs.control} in the control (e-value {installs.harm_e:.3g})"
        )
    return ""


def _too_slow(policy: GuardPolicy, latencies: Sequence[ClassLatency]) -> str:
    if policy.max_p95_us is None:
        return ""
    worst = max(latencies, key=lambda found: found.p95_us, default=None)
    if worst is None or worst.p95_us <= policy.max_p95_us:
        return ""
    return (
        f"the measured p95 is {worst.p95_us:.4g} µs on {worst.hardware or 'unnamed'} hardware "
        f"(median of {worst.devices} {_devices(worst.devices)}), {policy.max_p95_us:.4g} µs is allowed"
    )


def _lack(
    policy: GuardPolicy,
    cohort: CohortHealth,
    paired: PairedEvidence,
    fresh: int,
    latencies: tuple[ClassLatency, ...],
    assigned: int,
) -> str:
    """Return the evidence that is missing, or an empty string."""
    if cohort.present == 0:
        return f"no device of the cohort is reachable{_resting(cohort)}"
    if cohort.failed > policy.max_install_failures * cohort.present:
        return f"not enough evidence: {cohort.in_words}, which neither is health nor shows harm; {FAILED}"
    if cohort.committed < policy.min_devices:
        have = f"{cohort.committed} {_devices(cohort.committed)}"
        return f"not enough evidence: {have} committed the release, {policy.min_devices} must"
    measured = sum(found.devices for found in latencies)
    needed = min(policy.min_measured, max(1, cohort.present - cohort.failed))
    if policy.max_p95_us is not None and measured < needed:
        return f"not enough evidence: {measured} {_devices(measured)} measured the release's p95, {needed} must"
    slow = _too_slow(policy, latencies)
    if slow:
        return f"not enough evidence: {slow}; one device of several does not decide"
    if 0 < cohort.committed == cohort.untried:
        verb = "has" if cohort.untried == 1 else "have"
        return f"not enough evidence: {cohort.untried} {_devices(cohort.untried)} {verb} had no request"
    if policy.evidence == "install":
        few = f"not enough evidence: 1 of {assigned} devices is reachable, 2 must be{_resting(cohort)}; {GONE}"
        return few if cohort.present == 1 < assigned else ""
    if policy.matches and paired.seen_on < policy.least_devices and paired.pairs >= policy.min_pairs:
        which = f"{policy.pairs} of {paired.seen_on} {_devices(paired.seen_on)} of the cohort or of the control"
        return f"not enough evidence: {which}, {policy.least_devices} of each must bring some"
    if not policy.matches and paired.seen_on <= paired.colluding and paired.pairs >= policy.min_pairs:
        unheard = f" ({assigned - cohort.present} are not reachable: {GONE})"
        gone = unheard if cohort.present <= paired.colluding else ""
        brought = f"of {assigned} devices {paired.seen_on} brought audited pairs, {paired.colluding + 1} must"
        return f"not enough evidence: {brought}{gone}{_left_out(paired)}"
    if fresh < policy.min_pairs:
        return f"{fresh} {policy.pairs} in this stage, {policy.min_pairs} are needed{_left_out(paired)}"
    if paired.health_e < 1 / policy.alpha:
        return (
            f"{paired.pairs} {policy.pairs} do not yet show that it is {policy.goal} "
            f"({_most(paired)}; e-value {paired.health_e:.3g}, {1 / policy.alpha:.3g} is proof){_left_out(paired)}"
        )
    return ""


def _resting(cohort: CohortHealth) -> str:
    return f"; {cohort.resting} {_devices(cohort.resting)} quiet, by habit" if cohort.resting else ""


def _most(paired: PairedEvidence) -> str:
    """The net loss that the pairs leave possible, in words."""
    if paired.loss_at_most is None:
        return "any loss is possible"
    return f"a loss of at most {points(paired.loss_at_most)}"


def _left_out(paired: PairedEvidence) -> str:
    """Return the pairs that are no evidence, in words; empty where all are."""
    found = [f"{paired.repeats} are repeats of an input"] * bool(paired.repeats)
    if paired.unnamed:
        found.append(f"{paired.unnamed} are of agents that do not tell repeats (update them)")
    beside = f"; beside these, {' and '.join(found)}" if found else ""
    return f"{beside}{_contradicted(paired)}"


def _contradicted(paired: PairedEvidence) -> str:
    """Return the devices that contradict one another, in words; empty where none do."""
    found = ""
    if paired.disputed:
        verb = "prove" if paired.disputed > 1 else "proves"
        found = f"; of these, {paired.disputed} on which {' and '.join(paired.disputing[:2]) or 'devices'} "
        found += f"contradict each other {verb} nothing"
    if paired.contradicted:
        found += f"; others contradict {', '.join(paired.contradicted)}"
    return found


def _praise(
    policy: GuardPolicy, cohort: CohortHealth, paired: PairedEvidence, latencies: tuple[ClassLatency, ...]
) -> str:
    fast = ""
    if policy.max_p95_us is not None:
        worst = max(found.p95_us for found in latencies)
        fast = f"; measured p95 at most {worst:.4g} µs, {policy.max_p95_us:.4g} µs is allowed"
    if policy.evidence == "install":
        untried = f" ({cohort.untried} of them untried)" if cohort.untried else ""
        committed = f"{cohort.committed} of {cohort.present} devices committed{untried}"
        return f"{committed}, {cohort.failed} failed{_resting(cohort)}{fast}"
    return (
        f"{policy.goal}: {paired.pairs} {policy.pairs} show it ({_most(paired)}; e-value {paired.health_e:.3g}); "
        f"{paired.only_old} {policy.good} only by the old release, {paired.only_new} only by the new one{fast}"
        f"{_contradicted(paired)}"
    )


def _devices(count: int) -> str:
    return "device" if count == 1 else "devices"
