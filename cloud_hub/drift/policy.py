"""How a model's drift is watched: the `drift` part of the model's policy."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from cloud_hub.errors import InvalidError


class DriftPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`budget_days`: at most one false alarm in so many days. A window with fewer than `min_count`
    sketched inputs is not counted. `samples`: how many each device is asked for after an alarm.
    `retrain`: whether an alarm starts a retrain job by itself."""

    baseline_windows: int = 30
    min_count: int = 20
    budget_days: float = 1000.0
    samples: int = 200
    retrain: Literal["off", "on-alarm"] = "off"


def policy_of(document: dict[str, Any]) -> DriftPolicy:
    """The drift policy in a model's policy document.

    Raises:
        InvalidError: an unknown field, or a value of the wrong type or size.
    """
    try:
        policy = msgspec.convert(document.get("drift", {}), DriftPolicy)
    except msgspec.ValidationError as error:
        raise InvalidError(f"drift policy: {error}", subject="policy.drift") from error
    if policy.baseline_windows < 3 or policy.min_count < 2 or policy.budget_days <= 0:
        raise InvalidError("drift policy: at least 3 windows of 2 inputs, and more than 0 days", subject="policy.drift")
    return policy
