"""The settings by which a model's drift is watched: the `drift` part of the model's policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cloud_hub.errors import InvalidError
from fleet.api.models import DriftPolicy as DriftPolicy


def policy_of(document: Mapping[str, Any]) -> DriftPolicy:
    """The drift policy in a model's policy document.

    Raises:
        InvalidError: an unknown field, or a value of the wrong type or size, which an earlier version let in.
    """
    try:
        return DriftPolicy.model_validate(document.get("drift", {}))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("policy.drift", *wrong["loc"])))
        raise InvalidError(f"drift policy: {where}: {wrong['msg']}", subject=where) from error
