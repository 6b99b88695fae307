"""A small disk of a test's own, which can be full or read-only, and the real agent's process on it.

The disk is a tmpfs in a mount namespace of its own. A process keeps the namespace: the agent is started in it,
the test reaches its files through /proc/PID/root, and when the keeper ends, all of it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.agent_process import ROOT
from tests.support.faults.netns import NotPermittedError
from tests.support.faults.zygote import MODEL, Probe
from tests.support.models import inputs

SIZE = 4 << 20
START_S = 60.0
ADVICE = (
    "run it as root (in a container: --cap-add SYS_ADMIN), or permit user namespaces "
    "(sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
)
_KEEP = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo ready && exec cat'


class SmallDisk:
    """A tmpfs of `SIZE` bytes, mounted at the folder `at` for who is in the namespace; `root` is it from outside.

    Raises:
        NotPermittedError: this machine does not let it.
    """

    def __init__(self, at: Path) -> None:
        at.mkdir(parents=True, exist_ok=True)
        self.at, said = at, ""
        for user in (False, True):  # what root need not, anybody else must
            self._keep(user)
            assert self._keeper.stdout is not None and self._keeper.stderr is not None
            if self._keeper.stdout.readline() == "ready\n":
                self.root = Path(f"/proc/{self._keeper.pid}/root{at}")
                return
            said = self._keeper.stderr.read().strip()
            self.close()
        raise NotPermittedError(f"no mount namespace with a tmpfs: {said}; {ADVICE}")

    def _keep(self, user: bool) -> None:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        options = ["-r", "-m"] if user else ["-m"]
        self._keeper = subprocess.Popen(
            ["unshare", *options, "sh", "-c", _KEEP, str(self.at), str(SIZE)], text=True, **pipes
        )
        self._enter = [
            "nsenter",
            "-t",
            str(self._keeper.pid),
            *(["-U", "--preserve-credentials"] if user else []),
            "-m",
        ]

    def command(self, *words: str) -> list[str]:
        """A command line that runs `words` where the disk is mounted."""
        return [*self._enter, "--", *words]

    def fill(self, free: int) -> None:
        """Leave `free` bytes."""
        found = os.statvfs(self.root)
        with (self.root / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, found.f_bavail * found.f_bsize - free)

    def remount(self, how: str) -> None:
        """Make it `ro` or `rw`, as a mount: the file system's own options would name users whom a namespace lacks."""
        subprocess.run(self.command("mount", "-o", f"remount,bind,{how}", str(self.at)), check=True)

    def heal(self) -> None:
        """Free what `fill` took, or make it writable again."""
        self.remount("rw")
        (self.root / "ballast").unlink(missing_ok=True)

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the namespace, and with it the disk once nobody is there any more."""
        self._keeper.communicate()


class Process:
    """`edge-agent run` on a folder of a disk; its log is elsewhere, since the disk may take none."""

    def __init__(self, disk: SmallDisk, directory: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:  # run.json, which would tell it, needs the disk, too
            port = free.getsockname()[1]
        self._log, self.url = log, f"http://127.0.0.1:{port}"
        run = (sys.executable, "-m", "edge_agent.main", "run", "--dir", str(directory), "--port", str(port))
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                disk.command(*run), stderr=out, stdout=out, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )

    def ended(self) -> str:
        """Empty while it runs; else how it ended."""
        code = self._process.poll()
        return "" if code is None else f"it ended with {code}"

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-600:]

    def status(self) -> dict[str, Any] | None:
        """Its `/status`; None while nobody listens."""
        try:
            with urllib.request.urlopen(f"{self.url}/status", timeout=5) as response:
                return json.load(response)
        except (urllib.error.URLError, ConnectionError):
            return None

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def running(disk: SmallDisk, directory: Path, log: Path) -> Iterator[Process]:
    """The agent's process, killed at the end."""
    process = Process(disk, directory, log)
    try:
        yield process
    finally:
        process.kill()


def answer(address: str) -> Probe | None:
    """One request over HTTP; None while nobody listens or nothing serves."""
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": inputs(1).ravel().tolist()}]}
    url = f"{address}/v2/models/{MODEL}/infer"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            said = json.load(response)
    except (urllib.error.URLError, ConnectionError):
        return None
    return Probe(release=int(said["model_version"]), logits=[said["outputs"][0]["data"]])


def patiently(seconds: float) -> Iterator[float]:
    """The seconds that have passed, again and again, until there are that many."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        yield passed
        time.sleep(0.05)
