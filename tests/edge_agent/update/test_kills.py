"""SIGKILL while state.json says each state; the next start serves the old release and ends the update."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_agent.update.disk.state import read_state
from fleet.protocol.channel import Channel, Fetching
from tests.support.device import Device, claim, follow, listening, publish
from tests.support.hub import make_hub

STATES = ["fetching", "verifying", "trying", "probation"]


@pytest.mark.parametrize("state", STATES)
def test_a_kill_at_any_state_costs_at_most_one_more_look(state: str, tmp_path: Path) -> None:
    hub = make_hub(tmp_path, start=time.time())  # its children judge dates by this machine's clock
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        device.look()
        device.commit()
        follow(hub, publish(hub, tmp_path, seed=2))

        def slow(c: Channel) -> Channel:
            limit = Fetching(max_bytes_per_s=4000)
            return Channel(channel=c.channel, version=c.version, models=c.models, fetching=limit)

        hub.hub.publisher.change_channel("stable", slow, actor="test")
        seen = kill_when(device, state)
        assert seen in STATES[STATES.index(state) :], "a busy machine may let it go on before the kill arrives"
        device.restart()
        device.start()
        assert device.activator.serving == {"tiny": 2 if seen == "probation" else 1}
        device.look()
        assert device.activator.serving == {"tiny": 2}
        device.commit()
        assert (device.state().state, device.state().active.release, device.state().previous.release) == (
            "committed",
            2,
            1,
        )


def kill_when(device: Device, state: str) -> str:
    """Run a real updater and kill it as soon as its file says `state`; what the file says then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.killable", str(device.config.dir), device.enrollment.device_id, "stable"],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if read_state(device.config.dir).models["tiny"].state == state:
                process.send_signal(signal.SIGSTOP)
                break
            time.sleep(0.0005)
        return read_state(device.config.dir).models["tiny"].state
    finally:
        process.kill()
        process.wait()
