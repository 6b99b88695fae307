"""Counts in a window how a release does that runs beside the one that serves. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.protocol.channel import RolloutRef
from fleet.protocol.shadow import ShadowCounts

COMPARED_INPUTS = 512  # distinct ones of one window; more count as repeats
AGREE, DIFFER = 0, 1


class ShadowTally:
    """Counts one window's comparisons for one attempt of a rollout."""

    def __init__(self, rollout: RolloutRef) -> None:
        self.rollout = rollout
        self._outcomes: dict[bytes, int] = {}
        self._counts = dict.fromkeys(("repeats", "non_finite", "failed", "crashed", "dropped"), 0)
        self._old_s = self._new_s = 0.0
        self.reason = ""

    def rows(self, keys: Sequence[bytes], agree: Sequence[bool], broken: Sequence[bool], *, failed: bool) -> None:
        """Count the rows of a request; of an input that comes again only that it does."""
        for key, same, bad in zip(keys, agree, broken, strict=True):
            if key in self._outcomes or len(self._outcomes) >= COMPARED_INPUTS:
                self._counts["repeats"] += 1
                continue
            self._outcomes[key] = AGREE if same else DIFFER
            self._counts["non_finite"] += bad
            self._counts["failed"] += failed

    def took(self, old_s: float, new_s: float) -> None:
        """Note the seconds that both releases took for a request; one whose `old_s` is 0, or unknown, is left out."""
        if old_s > 0.0:
            self._old_s += old_s
            self._new_s += new_s

    def count(self, name: str, count: int = 1) -> None:
        """Add to `crashed` or `dropped`."""
        self._counts[name] += count

    @property
    def empty(self) -> bool:
        """Nothing to tell but what there was no room for."""
        return not (self._outcomes or self._counts["repeats"] or self._counts["crashed"] or self.reason)

    def data(self) -> ShadowCounts:
        """The counts."""
        found = [[key for key, outcome in self._outcomes.items() if outcome == which] for which in (AGREE, DIFFER)]
        return ShadowCounts(
            rollout=self.rollout.id,
            attempt=self.rollout.attempt,
            old=self.rollout.from_release,
            new=self.rollout.release,
            agree=len(found[AGREE]),
            differ=len(found[DIFFER]),
            keys=b"".join(found[AGREE] + found[DIFFER]),
            old_us=int(self._old_s * 1e6),
            new_us=int(self._new_s * 1e6),
            reason=self.reason,
            **self._counts,
        )
