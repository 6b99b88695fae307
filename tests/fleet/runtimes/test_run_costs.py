"""The time of a run, as device and hub guess it."""

from __future__ import annotations

import math

import pytest

from cloud_hub.inference import batching
from edge_agent.serving import run_times
from fleet.runtimes.run_costs import RECENT, RunCosts


def learnt(costs: RunCosts, runs: list[tuple[int, float]]) -> RunCosts:
    for values, took in runs:
        costs.learn(values, took)
    return costs


@pytest.mark.parametrize(
    ("runs", "asked", "found"),
    [
        ([], 8, 0.0),
        ([(8, 1.0)], 8, 1.0),
        ([(8, 1.0)], 15, 1.0),  # of about the same size
        ([(8, 1.0)], 80, 8.0),
        ([(8, 1.0), (1000, 50.0)], 80, 8.0),
        ([(8, 1.0), (1000, 5.0)], 80, 5.0),  # in no proportion: what a run costs whatever its size
        ([(8, 1.0), (1000, 0.5)], 80, 1.0),
        ([(1000, 0.5)], 8, 0.5),
        ([(8, 0.1), (8, 1.0)], 8, 1.0),
        ([(8, 0.1), (8, 0.1), (8, 1.0)], 8, 0.1),  # one among several was interrupted
        ([(8, 0.1), (8, 0.1), (8, 1.0), (8, 1.0)], 8, 1.0),  # two were not
        ([(8, 1.0)] * RECENT + [(8, 0.1)] * (RECENT - 1), 8, 0.1),
    ],
)
def test_a_device_judges_a_run_by_runs_of_its_size(runs, asked, found) -> None:
    assert learnt(run_times.run_costs(), runs).of(asked) == pytest.approx(found)


@pytest.mark.parametrize(
    ("runs", "asked", "found"),
    [
        ([], 8, math.inf),
        ([(8, 0.1), (8, 0.1), (8, 1.0), (8, 0.1)], 8, 1.0),  # a slower run counts at once, and for a while
        ([(8, 1.0)] + [(8, 0.1)] * RECENT, 8, 0.1),
        ([(8, 1.0)], 80, 64.0),  # eight times the input: attention grows with its square
        ([(8, 1.0), (1000, 5.0)], 80, 5.0),
        ([(1000, 0.5), (80, 0.2)], 8, 0.2),
    ],
)
def test_the_hub_guesses_high(runs, asked, found) -> None:
    assert learnt(batching.run_costs(), runs).of(asked) == pytest.approx(found)
