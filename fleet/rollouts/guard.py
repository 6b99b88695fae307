"""The guard: is the new release healthy, harmful, or is there not enough evidence?

Harm is found in three ways, and the chance that a release as good as the old one is ever called
harmful by the two statistical ones together is at most `alpha`: paired evidence, failures of the
cohort against its concurrent control, and plainly too many failed devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from fleet.rollouts import evidence
from fleet.rollouts.errors import PolicyError
from fleet.rollouts.evidence import Arms, InstallEvidence, PairedEvidence, Pairs

Judgement = Literal["healthy", "harmful", "not-enough-evidence"]


class GuardPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator tolerates.

    `alpha` bounds the chance of a false halt and, separately, of a false all-clear. `margin` is the
    net loss (requests only the old release got right, less those only the new one did, over all
    audited pairs) that is no longer tolerable. Every stage needs `min_pairs` pairs of its own.
    Without evidence `evidence_deadline_s` seconds into a stage the rollout holds or halts.
    `max_install_failures` is a fraction of the cohort's devices; one that was alive when it joined
    and has been silent for `silent_after_s` seconds counts as failed. With `evidence = "install"`
    (a model without an auditor) install health alone makes a stage healthy.
    """

    alpha: float = 0.05
    margin: float = 0.05
    min_pairs: int = 30
    evidence_deadline_s: float = 3600.0
    on_no_evidence: Literal["hold", "halt"] = "hold"
    max_install_failures: float = 0.05
    silent_after_s: float = 300.0
    evidence: Literal["paired", "install"] = "paired"


class CohortHealth(Struct, frozen=True, kw_only=True):
    """The cohort by assignment. `present` were alive when they joined; `failed` of them rolled back
    or fell silent; `pending` are reachable and have neither committed nor failed."""

    present: int = 0
    committed: int = 0
    failed: int = 0
    silent: int = 0
    pending: int = 0
    reasons: tuple[str, ...] = ()


class Verdict(Struct, frozen=True, kw_only=True):
    """The judgement, a sentence that says why, and the evidence it rests on."""

    judgement: Judgement
    reason: str
    paired: PairedEvidence = PairedEvidence()
    installs: InstallEvidence = InstallEvidence()
    cohort: CohortHealth = CohortHealth()


def load_policy(document: Mapping[str, Any]) -> GuardPolicy:
    """Read a stored policy; an unknown field or a value out of bounds is refused, never ignored.

    Raises:
        PolicyError: says which field.
    """
    try:
        policy = msgspec.convert(dict(document), GuardPolicy)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise PolicyError(f"the guard policy cannot be read: {error}", subject="guard") from error
    bounds = {
        "alpha": 0 < policy.alpha <= 0.5,
        "margin": 0 < policy.margin <= 0.5,
        "min_pairs": policy.min_pairs >= 0,
        "evidence_deadline_s": policy.evidence_deadline_s > 0,
        "max_install_failures": 0 <= policy.max_install_failures < 1,
        "silent_after_s": policy.silent_after_s > 0,
    }
    for name, good in bounds.items():
        if not good:
            raise PolicyError(f"the guard policy's {name} is {getattr(policy, name)}, out of bounds", subject="guard")
    return policy


def judge(
    policy: GuardPolicy,
    cohort: CohortHealth,
    pairs: Mapping[str, Pairs],
    arms: tuple[Arms, ...] = (),
    *,
    pairs_before: int = 0,
) -> Verdict:
    """Judge a stage.

    Args:
        pairs: per device, summed over the attempt so far.
        arms: per hardware class, cohort and control by assignment.
        pairs_before: pairs that earlier stages had already brought.
    """
    harm_alpha = policy.alpha / 2  # two statistical tests share the false-halt budget
    paired = evidence.paired(pairs, margin=policy.margin, harm_alpha=harm_alpha, health_alpha=policy.alpha)
    installs = evidence.installs(arms)
    judgement, reason = _weigh(policy, cohort, paired, installs, harm_alpha, paired.pairs - pairs_before)
    return Verdict(judgement=judgement, reason=reason, paired=paired, installs=installs, cohort=cohort)


def _weigh(
    policy: GuardPolicy,
    cohort: CohortHealth,
    paired: PairedEvidence,
    installs: InstallEvidence,
    harm_alpha: float,
    fresh: int,
) -> tuple[Judgement, str]:
    if cohort.failed > policy.max_install_failures * cohort.present:
        why = f" ({', '.join(cohort.reasons)})" if cohort.reasons else ""
        silent = f", {cohort.silent} of them silent" if cohort.silent else ""
        return "harmful", f"{cohort.failed} of {cohort.present} devices failed{silent}{why}"
    if paired.harm_e >= 1 / harm_alpha:
        return "harmful", (
            f"of {paired.pairs} audited requests, {paired.only_old} were right only by the old release and "
            f"{paired.only_new} only by the new one (e-value {paired.harm_e:.3g}, {1 / harm_alpha:.3g} is proof)"
        )
    if installs.harm_e >= 1 / harm_alpha:
        return "harmful", (
            f"{installs.cohort_failed} of {installs.cohort} cohort devices failed, "
            f"{installs.control_failed} of {installs.control} in the control (e-value {installs.harm_e:.3g})"
        )
    if cohort.present == 0:
        return "not-enough-evidence", "no device of the cohort is reachable"
    if policy.evidence == "install":
        return "healthy", f"{cohort.committed} of {cohort.present} devices committed, {cohort.failed} failed"
    if fresh < policy.min_pairs:
        return "not-enough-evidence", f"{fresh} audited pairs in this stage, {policy.min_pairs} are needed"
    if paired.health_e < 1 / policy.alpha:
        return "not-enough-evidence", (
            f"{paired.pairs} audited pairs do not yet show a loss below {policy.margin:.3g} "
            f"(e-value {paired.health_e:.3g}, {1 / policy.alpha:.3g} is proof)"
        )
    return "healthy", (
        f"{paired.pairs} audited pairs show a net loss below {policy.margin:.3g} (e-value {paired.health_e:.3g}); "
        f"{paired.only_old} right only by the old release, {paired.only_new} only by the new one"
    )
