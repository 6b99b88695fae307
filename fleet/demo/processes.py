"""Child processes of the demo: run to the end, or started, killed and restarted, each with a log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TAIL = 2000  # characters of a log that an error shows


class DemoError(Exception):
    """A step of the demo failed, or a promise did not hold; the message says which and where."""


def options(**values: object) -> tuple[object, ...]:
    """Options as a command takes them: `audit_share=0.5` is `--audit-share 0.5`."""
    return tuple(word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value))


def run_to_end(command: Sequence[str], *, log: Path, timeout_s: float, env: Mapping[str, str], expect: int = 0) -> str:
    """Run a command to its end and return its standard output; both streams also go to `log`.

    Raises:
        DemoError: another exit code than `expect`, or no end within `timeout_s`.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=dict(env), check=False)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"{_show(command)} did not end within {timeout_s:.0f} s") from error
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {_show(command)}\n{done.stdout}{done.stderr}")
    if done.returncode != expect:
        raise DemoError(
            f"{_show(command)} ended with exit code {done.returncode}, expected {expect}:\n"
            f"{(done.stderr or done.stdout)[-TAIL:]}"
        )
    return done.stdout


class Process:
    """A long-running child with a log. It can be killed and started again, like under a supervisor."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._command = list(command)
        self._log = log
        self._env = dict(env)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The child's process id; 0 before the first start."""
        return 0 if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the child; it dies with us, being in our process group."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._env)

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        assert self._child is not None
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def stop(self, timeout_s: float = 15.0) -> None:
        """SIGTERM, and SIGKILL when that is not enough."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def check(self) -> None:
        """Raise DemoError with the end of the log when the child has ended by itself."""
        if self._child is not None and self._child.poll() is not None:
            tail = "its log is gone: has another demo started in this directory?"
            if self._log.exists():
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
            raise DemoError(f"{self.name} ended with exit code {self._child.returncode}:\n{tail}")


def wait_for(what: str, condition: Callable[[], object], *, timeout_s: float, every_s: float = 0.1) -> float:
    """Wait until `condition` returns something true; returns the seconds it took.

    Raises:
        DemoError: not true within `timeout_s`; the message has `what` and the condition's last word.
    """
    start = time.monotonic()
    while True:
        answer = condition()
        if answer:
            return time.monotonic() - start
        if time.monotonic() - start > timeout_s:
            raise DemoError(f"waited {timeout_s:.0f} s in vain for: {what}")
        time.sleep(every_s)


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quiet_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Our environment with one thread for each numeric library, since there are more processes than cores.

    Settings of Edgeloop's own stay out: a user's EDGELOOP_HUB and EDGELOOP_TOKEN, which outrank a login, would let the
    demo change her hub, and EDGELOOP_HUB_DATABASE would let its hub write into her database.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("EDGELOOP_")}
    return {**own, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **extra}


def _show(command: Sequence[str]) -> str:
    return " ".join(Path(part).name if part.startswith("/") else part for part in command)
