"""SIGKILL at every mutating system call of an update, of the agent or of its children, one after the other."""

from __future__ import annotations

import pytest

from tests.faults.conftest import SIZES
from tests.support.faults import results
from tests.support.faults.points import ROLES, census, sample
from tests.support.faults.strikes import strike

pytestmark = pytest.mark.fault

UPDATES = ("install", "swap", "halt", "rollback", "rotation")
INSTALLS = ("install", "swap", "rollback")
LARGEST = 40  # points per update of the largest files: the calls are the same, but for more writes of blobs
SEED = 3
CASES = [(u, s) for s in SIZES for u in UPDATES] if results.FULL else [("install", "small")]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("update", "size"), CASES)
def test_a_kill_at_any_call_leaves_a_device_that_serves_and_gets_there(update, size, bench, static, world, strace):
    scenario = world(size).scenarios[update]
    with bench.worker() as (run, folder):
        points = census(run, folder, scenario, static.url)
    if update in INSTALLS:  # else the strikes would miss a process that nobody traces
        assert {point.role for point in points} == set(ROLES)
    chosen = sample(points, LARGEST, SEED) if size == "4 MiB" else points
    verdicts = bench.map(
        lambda run, folder, point: strike(run, folder, scenario, static.url, point, "signal=KILL"), chosen
    )
    faults = results.keep("kill", f"{update}, {size}", verdicts, seed=SEED, points=len(points))
    assert not faults, "\n".join(faults)
    assert sum(v.struck for v in verdicts) >= 0.95 * len(verdicts)  # a census may differ by a call or two
