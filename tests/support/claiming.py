"""A cohort in memory whose devices say what came of audited inputs, and the guard that listens to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fleet.rollouts.claims import SHARED, Claims, SharedInputs
from fleet.rollouts.guard import CohortHealth, GuardVerdict, judge
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.pairs import Pairs, counted

MOST = 2000  # inputs of which one device may say something


class Cohort:
    """Devices, with all that they have said so far."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._claims = Claims()
        self._devices = devices
        self._taken: Counter[str] = Counter()
        self._repeats: Counter[str] = Counter()

    def say(self, device: str, outcomes: Mapping[int, str]) -> None:
        """Take in what a device says, as the hub does."""
        new, taken = self._claims.add(device, outcomes, MOST - self._taken[device])
        self._taken[device] += taken
        self._repeats[device] += len(outcomes) - new

    @property
    def shared(self) -> SharedInputs:
        """The inputs that several devices have met."""
        return SharedInputs(**self._claims.adds().get(SHARED, {}))

    def pairs(self) -> dict[str, Pairs]:
        """Return the counts of each device."""
        adds = self._claims.adds()
        return {device: Pairs(**adds.get(device, {}), repeats=self._repeats[device]) for device in self._devices}

    def judged(self, policy: GuardPolicy = GuardPolicy()) -> GuardVerdict:  # noqa: B008  # frozen
        """Return the guard's verdict now; every device has committed the release."""
        found = counted(self.pairs(), policy.margin, shared=self.shared)
        count = len(self._devices)
        return judge(policy, CohortHealth(present=count, committed=count), found, assigned=count)
