"""Self-tests that do not end well, in real children: what is blamed, and what goes on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from edge_agent.errors import TrialError, UpdateError
from edge_agent.main import main
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease
from edge_agent.update.worker.client import ProcessChildren
from tests.support.device import Device, follow, publish


@pytest.fixture
def device(offered: Device) -> Device:
    return offered


class Harmed(ProcessChildren):
    """Real children; `harm` is done to the model file before a self-test reads it."""

    def __init__(self, directory: Path, harm) -> None:
        super().__init__(directory)
        self._harm, self.tried = harm, 0

    async def trial(self, held: HeldRelease) -> tuple[str, ...]:
        self.tried += 1
        store = Store(self._directory)
        self._harm(store.blobs / store.manifest(held.manifest).variant(held.variant).blob.sha256)
        return await super().trial(held)


def never_ends(path: Path) -> None:
    """A pipe without a writer: the child that opens it waits for ever, and uses no processor time."""
    path.unlink()
    os.mkfifo(path)


def test_a_self_test_that_only_waits_is_ended_and_its_release_refused(device: Device, hub, tmp_path: Path) -> None:
    (device.config.dir / "agent.toml").write_text("selftest_wall_s = 0.2\n")  # it would never end: any limit will do
    children = Harmed(device.config.dir, never_ends)
    device.restart(children=children)
    device.start()
    device.look()
    state = device.state()
    assert (state.state, state.reason) == ("rolled_back", "selftest-timeout")
    assert "0.2 s" in state.detail and "selftest_wall_s" in state.hint
    assert device.activator.serving == {"tiny": 1}
    device.look()
    assert children.tried == 1  # it is not a child that was killed from outside, which is tried once more
    (device.config.dir / "agent.toml").unlink()
    device.restart()
    follow(hub, publish(hub, tmp_path, seed=3))
    device.look()
    assert device.activator.serving == {"tiny": 3}


class Scripted(ProcessChildren):
    """Children that say they are confined, and then do what `code` says."""

    def __init__(self, directory: Path, code: str) -> None:
        super().__init__(directory)
        said = """print('hello from a runtime\\n{"type":"confined","sandbox":["rlimits","seccomp"]}', flush=True)"""
        self._code = f"import os, signal; {said}; {code}"

    async def _spawn(self, kind: str, *more: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(sys.executable, "-c", self._code, stdin=pipe, stdout=pipe)


@pytest.mark.parametrize(
    ("code", "reason", "detail", "hint"),
    [
        ("os.kill(os.getpid(), signal.SIGXCPU)", "selftest-failed", "more than 120 s of processor", "selftest_cpu_s"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed", "died with code -9", ""),
        ("os.abort()", "selftest-failed", "died with code -6", ""),
        ("print('x' * (1 << 20)); signal.pause()", "selftest-failed", "a line without end", ""),
        ("all(os.write(1, b'\\n' * 65536) for _ in iter(int, 1))", "selftest-failed", "wrote without end", ""),
        ("all(os.write(1, b'x' * 4095 + b'\\n') for _ in iter(int, 1))", "selftest-failed", "wrote without end", ""),
        ("""print('{"type":"done","x":' + '[' * 60000)""", "selftest-failed", "died with code 0", ""),
        ("""print('{"type":"confined","sandbox":["all"]}'); os.abort()""", "selftest-failed", "code -6", ""),
    ],
)
def test_what_ended_a_self_test_is_named_with_what_confined_it(tmp_path: Path, code, reason, detail, hint) -> None:
    (tmp_path / "agent.toml").write_text("selftest_wall_s = 20\n")
    with pytest.raises(TrialError, match=detail) as caught:
        asyncio.run(Scripted(tmp_path, code).trial(HeldRelease(release=1, variant="tiny", manifest="0" * 64)))
    assert caught.value.reason == reason and hint in caught.value.hint
    assert caught.value.sandbox == ("rlimits", "seccomp") and "it ran under rlimits, seccomp" in str(caught.value)


def test_what_a_self_test_says_of_itself_is_bounded(tmp_path: Path) -> None:
    code = """print('{"type":"failed","reason":"x","detail":"%s","hint":"%s"}' % ('d' * 50000, 'h' * 5000))"""
    with pytest.raises(TrialError, match="ddd") as caught:
        asyncio.run(Scripted(tmp_path, code).trial(HeldRelease(release=1, variant="tiny", manifest="0" * 64)))
    assert len(str(caught.value)) < 1100 and len(caught.value.hint) == 1000


def test_a_failed_self_test_says_under_what_it_ran(device: Device, hub, tmp_path: Path, capsys) -> None:
    (device.config.dir / "agent.toml").write_text("selftest_sandbox = false\n")  # release 1 was tried with it
    follow(hub, publish(hub, tmp_path, seed=5, tolerance=-1.0))
    device.restart()
    device.look()
    assert device.state().reason == "selftest-failed" and device.state().detail.endswith("(it ran under rlimits)")
    assert device.reporter.models[-1].detail == device.state().detail
    assert main(["status", "--dir", str(device.config.dir), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sandbox"] == ["rlimits"]
    assert document["models"]["tiny"]["detail"].endswith("(it ran under rlimits)")
    assert main(["status", "--dir", str(device.config.dir)]) == 0
    assert "latest self-test: under rlimits\n" in capsys.readouterr().out


def test_a_self_test_that_cannot_be_started_is_tried_at_the_next_look(device: Device) -> None:
    class Full(ProcessChildren):
        async def _spawn(self, kind: str, *more: str) -> asyncio.subprocess.Process:
            if kind == "trial" and full:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return await super()._spawn(kind, *more)

    full = True
    device.restart(children=Full(device.config.dir))
    device.start()
    with pytest.raises(UpdateError, match=r"cannot be started: \[Errno 11\]"):
        device.look()
    assert device.state().reason == "interrupted" and device.activator.serving == {"tiny": 1}
    full = False
    device.look()
    assert device.state().state == "probation" and device.activator.serving == {"tiny": 2}


def test_a_look_that_only_waits_is_ended_and_what_serves_goes_on(device: Device) -> None:
    """For any cause of the wait; the limits of single answers are tried elsewhere."""

    class Waiting(ProcessChildren):
        async def _spawn(self, kind: str, *more: str) -> asyncio.subprocess.Process:
            pipe = asyncio.subprocess.PIPE
            waits = "import signal; signal.pause()"
            started.append(await asyncio.create_subprocess_exec(sys.executable, "-c", waits, stdin=pipe, stdout=pipe))
            return started[-1]

    started: list[asyncio.subprocess.Process] = []
    (device.config.dir / "agent.toml").write_text("look_wall_s = 0.2\n")  # it would never end: any limit will do
    device.restart(children=Waiting(device.config.dir))
    device.start()
    with pytest.raises(UpdateError, match=r"had not ended after 0\.2 s") as caught:
        device.look()
    assert caught.value.reason == "too-slow" and "look_wall_s" in caught.value.hint
    assert started[0].returncode is not None and device.activator.serving == {"tiny": 1}
    (device.config.dir / "agent.toml").unlink()
    device.restart()
    device.look()
    assert device.activator.serving == {"tiny": 2}
