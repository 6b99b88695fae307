"""The patience of a caller, as the Open Inference Protocol's users write it in a request's parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fleet.protocol.errors import MalformedError

UNITS_S = {"timeout": 1e-6, "timeout_ms": 1e-3, "deadline_ms": 1e-3}  # `timeout` is Triton's, in microseconds
LONGEST_S = 86_400.0


def deadline_s(parameters: Mapping[str, Any]) -> float | None:
    """Seconds from the request's first byte to its answer: the shortest that is said, None where nothing is.

    Raises:
        MalformedError: a value that is no number above 0.
    """
    found: float | None = None
    for name, unit in UNITS_S.items():
        value = parameters.get(name)
        if value is None:
            continue
        number = type(value) is int or (type(value) is float and math.isfinite(value))
        if not number or value <= 0:
            what = "microseconds" if name == "timeout" else "milliseconds"
            raise MalformedError(
                f"parameter {name!r} is {value!r}", subject=name, hint=f"it is a number of {what} above 0"
            )
        seconds = min(value, LONGEST_S / unit) * unit
        found = seconds if found is None else min(found, seconds)
    return found


def bounded(parameters: Mapping[str, Any], within_s: float | None) -> dict[str, Any]:
    """The parameters with a deadline in no more than `within_s` seconds; what is no number is left to be refused."""
    found = dict(parameters)
    said = found.get("deadline_ms")
    if within_s is not None and (said is None or (type(said) in (int, float) and said > within_s * 1e3)):
        found["deadline_ms"] = max(within_s * 1e3, 1e-3)
    return found
