"""A rollout's stages: percentages of the channel that rise to 100."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from fleet.protocol.channel import MILLION
from fleet.rollouts.errors import PlanError

MAX_STAGES = 20
MAX_SOAK_S = 366 * 86_400.0


class Stage(Struct, frozen=True, kw_only=True):
    """`share_ppm` of the channel runs the release; after every reachable device committed it, the
    stage lasts at least `soak_s` seconds more."""

    share_ppm: int
    soak_s: float = 0.0


def plan_stages(percentages: Sequence[float], *, soak_s: float = 0.0) -> tuple[Stage, ...]:
    """Stages from percentages such as (10, 50, 100).

    Raises:
        PlanError: empty, not rising, not ending at 100, or a soak time that is negative or longer than a year.
    """
    within = all(0 < percent <= 100 for percent in percentages)  # NaN is neither
    shares = [round(percent * MILLION / 100) for percent in percentages] if within else []
    rising = all(low < high for low, high in zip([0, *shares], shares, strict=False))
    if not shares or not rising or shares[-1] != MILLION or len(shares) > MAX_STAGES:
        raise PlanError(
            f"stages {list(percentages)} make no plan",
            subject="stages",
            hint=f"give 1 to {MAX_STAGES} rising percentages that end at 100, such as 10,50,100",
        )
    if not 0 <= soak_s <= MAX_SOAK_S:
        raise PlanError(f"a stage cannot soak for {soak_s} seconds", subject="stages", hint="give 0 seconds to a year")
    return tuple(Stage(share_ppm=share, soak_s=soak_s) for share in shares)
