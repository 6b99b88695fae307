"""The real agent, killed while it serves and started again from nothing: how long until it answers.

The other rows fork their agents from a warm process; this one pays for the interpreter, too. The time is
reported, not judged: a busy test machine is no device.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.support.agent_process import running
from tests.support.faults import results
from tests.support.faults.disk import answer
from tests.support.faults.judge import Verdict, wrong
from tests.support.faults.world import copy
from tests.support.faults.zygote import Probe

pytestmark = pytest.mark.fault

KILLS = 20 if results.FULL else 3


def first_answer(device: Path, deadline_s: float = 60.0) -> tuple[float, Probe]:
    """Start the agent, wait for its first answer, kill it; seconds from the start of the process."""
    began = time.monotonic()
    with running(device, "--port", "0") as (process, address):
        while (probe := answer(address)) is None:
            assert time.monotonic() - began < deadline_s, (device / "log").read_text()
        took = time.monotonic() - began
        process.send_signal(signal.SIGKILL)
        process.wait()
    return took, probe


@pytest.mark.timeout(300)
def test_a_killed_agent_answers_again(static, world, tmp_path):
    scenario = world("small").scenarios["swap"]
    device = copy(scenario.image, tmp_path / "device", "http://127.0.0.1:9")  # no hub answers there
    first_answer(device)
    verdicts = []
    for number in range(KILLS):
        took, probe = first_answer(device)
        faults = [f"torn: {why}" for why in wrong(probe, scenario)]
        faults += [] if probe.release == scenario.old else [f"bricked: {probe}"]
        verdicts.append(Verdict(name=f"kill {number}", faults=tuple(faults), to_serving_s=took))
    faults = results.keep("cold start", "killed while serving", verdicts)
    assert not faults, "\n".join(faults)
