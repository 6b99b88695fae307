"""The target that deferral is fitted for: how many answers may be wrong, or asked of the cloud."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DeferTarget:
    """At most `error` of all answers wrong, or at most `cloud` of all requests deferred (fractions)."""

    error: float | None = None
    cloud: float | None = 0.1

    def describe(self) -> str:
        """The target in words, as the manifest carries it."""
        if self.error is not None:
            return f"at most {100 * self.error:g} % error"
        return f"at most {100 * (self.cloud or 0.0):g} % cloud calls"


def target_in(words: str) -> DeferTarget | None:
    """The target that `DeferTarget.describe` says, as a manifest carries it; None for other words."""
    found = re.fullmatch(r"at most ([0-9.e+-]{1,20}) % (error|cloud calls)", words)
    try:
        share = float(found[1]) / 100 if found is not None else -1.0
    except ValueError:
        return None
    if found is None or not 0 <= share <= 1:
        return None
    return DeferTarget(error=share, cloud=None) if found[2] == "error" else DeferTarget(cloud=share)
