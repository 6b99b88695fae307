"""One budget of false alarms per model, and who has which part of it. Pure.

A policy's `budget_days` promises at most one false alarm in so many days, of a model: all questions, releases, groups
and devices together. Half of it is for where inputs lie, a quarter for answers, a quarter for broken data and outliers.
Each part is a mixture: of all that is watched in it, whatever the release, each has a weight, and the weights sum to at
most one. What has weight w alarms at 1 / w times the evidence that it needed alone; so the weighted sum of all, which
is an e-detector for any way in which they depend on one another, has reached the budget whenever one of them alarms.

Weights follow what is watched: when a release comes, those of the others become less, and more when one goes. Promised
is the rate at the weights of the moment; evidence that was gathered at a lower weight counts at a larger one, too.
"""

from __future__ import annotations

INPUTS = 1 / 2  # where inputs lie: `watch` shares it among the fleets, the groups and the devices of all releases
ANSWERS = 1 / 4  # how right answers are: equally among releases, and in one among its tracks
DATA = 1 / 4  # broken data and outliers: equally among releases, and in one among its tests


def days_of(budget_days: float, part: float, releases: int = 1) -> float:
    """Return in how many days each of so many releases may spend an equal share of a part of the budget."""
    return budget_days * max(releases, 1) / part
