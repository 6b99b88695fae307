"""The contents of a rollout's row, as values."""

from __future__ import annotations

import msgspec

from cloud_hub.store.tables import RolloutRow
from fleet.rollouts.plan import Plan, Progress, share_of


def plan_and_progress(row: RolloutRow) -> tuple[Plan, Progress]:
    """Return the stored plan and progress.

    Raises:
        msgspec.ValidationError: a newer hub wrote them.
    """
    stage = 0 if row.progress.get("shadowing") else row.progress.get("stage", 0)
    if isinstance(stage, str) and stage.isdecimal():
        stage = int(stage)
    return msgspec.convert(row.plan, Plan), msgspec.convert({**row.progress, "stage": stage}, Progress)


def share_ppm(row: RolloutRow) -> int:
    """Return the share of the channel that has its orders, in parts per million.

    Of a rollout that only a newer hub can read, which judges it, the plain facts tell: the shares of the stages stay
    where they are. Where not even these can be read it is nobody's.
    """
    try:
        return share_of(*plan_and_progress(row))
    except msgspec.ValidationError:
        pass
    try:
        return int(row.plan["stages"][int(row.progress.get("stage", 0))]["share_ppm"])
    except (LookupError, TypeError, ValueError):
        return 0
