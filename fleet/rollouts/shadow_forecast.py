"""A forecast of a shadow stage; part of a rollout's forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import structs

from fleet.rollouts.forecast import Blocker, Forecast
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.shadow import ShadowForecast, ShadowPlan, least_inputs

SUCH = 5  # devices that are named


def with_shadow(
    found: Forecast,
    plan: ShadowPlan,
    policy: GuardPolicy,
    *,
    unable: Sequence[str],
    compares: bool,
    most_per_device: int,
) -> Forecast:
    """A rollout's forecast with a shadow stage before its stages.

    Args:
        unable: the devices that can belong to a cohort, and whose agents cannot shadow.
        compares: whether the model's task compares answers.
        most_per_device: distinct inputs that one device can bring.
    """
    stage = ShadowForecast(
        goal=plan.goal(policy.alpha),
        seconds=plan.seconds,
        inputs=least_inputs(plan, policy.alpha),
        devices=found.scope.free - len(unable),
        unable=len(unable),
        cpu_share=plan.cpu_share,
    )
    return structs.replace(
        found,
        shadow=stage,
        seconds=None if found.seconds is None else found.seconds + plan.seconds,
        blockers=(*found.blockers, *_blockers(plan, stage, compares, most_per_device)),
        notes=(*_notes(stage, unable), *found.notes),
    )


def _blockers(plan: ShadowPlan, stage: ShadowForecast, compares: bool, most_per_device: int) -> Iterator[Blocker]:
    if not compares:
        what = "the model's task compares no answers, so nothing tells whether two releases agree"
        yield Blocker(what=what, add="leave --shadow out, or give the custom task an `agreement`")
    if stage.devices < plan.devices:
        what = f"{stage.devices} devices can shadow, and {plan.devices} have to"
        yield Blocker(what=what, add="update agents, or ask for fewer: --shadow-devices")
    elif stage.inputs > stage.devices * most_per_device:
        most = f"{stage.devices} devices bring at most {stage.devices * most_per_device}"
        what = f"the shadow stage takes {stage.inputs} distinct inputs, and {most}"
        yield Blocker(what=what, add="ask for fewer inputs or a lower --shadow-agreement, or update agents")


def _notes(stage: ShadowForecast, unable: Sequence[str]) -> Iterator[str]:
    if unable:
        such = ", ".join(unable[:SUCH])
        total = stage.devices + stage.unable
        yield f"{stage.unable} of {total} devices cannot shadow (agents without it, such as {such}): no evidence"
