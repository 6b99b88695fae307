"""A hub as an operator starts it, on the same ports at every start, and the commands beside it."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.commands import call
from tests.support.hub_process import ENVIRONMENT, ROOT, free_port

WAIT_S = 120.0
LOOK_S = 0.1  # between two looks, each of which costs a TLS handshake at the hub


def command(program: str, *arguments: str) -> str:
    """Run `program …` to its end, in this process; what it printed."""
    own = {name: value for name, value in ENVIRONMENT.items() if name.startswith("EDGELOOP_")}
    done = call(program, *arguments, **own, EDGELOOP_PASSPHRASE="secret")
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(look: Callable[[], Any], what: str) -> Any:
    """The first true answer of `look`, which asks a process again and again."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: {found!r}"
        time.sleep(LOOK_S)


class OperatedHub:
    """`cloud-hub serve` that can be killed and started again."""

    def __init__(self, base: Path, *options: str) -> None:
        """`options` are those of `cloud-hub init`."""
        self.base, self.directory = base, base / "hub"
        self.port, self.broker_port = free_port(), free_port()
        made = command(
            "cloud-hub",
            "init",
            str(self.directory),
            "--offline-keys",
            str(base / "offline"),
            "--token-file",
            str(base / "token"),
            "--json",
            *options,
        )
        self.token = json.loads(made)["admin_token"]
        self.url = f"https://127.0.0.1:{self.port}"
        self.context = ssl.create_default_context(cafile=str(self.directory / "keys" / "ca.pem"))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve; on return it answers."""
        # Nobody here orders a retrain, and a worker's start costs as much as the hub's.
        settings = {"EDGELOOP_HUB_BROKER__PORT": str(self.broker_port), "EDGELOOP_HUB_WORKER__LOCAL": "false"}
        with (self.base / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cloud_hub", "serve", str(self.directory), "--port", str(self.port)],
                env={**ENVIRONMENT, **settings},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        until(self._healthy, "the hub answers")

    def _healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"exit status {self.process.returncode}\n{self.log()}"
        try:
            self.call("GET", "/healthz")
        except OSError:
            return False
        return True

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the operator's; AssertionError when it is refused, OSError when nobody answers."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from error

    def device(self) -> dict[str, Any]:
        """The device `cam-1`."""
        found: dict[str, Any] = self.call("GET", "/api/v1/devices/cam-1")
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of its database."""
        found = sqlite3.connect(f"file:{self.directory / 'hub.db'}?mode=ro", uri=True)
        with contextlib.closing(found) as database:  # one that stays open is somebody who uses the database
            return database.execute(query).fetchall()

    def mosquitto(self) -> int:
        """The process id of its broker, as the broker's file says."""
        return int((self.directory / "broker" / "mosquitto.pid").read_text().split()[0])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def log(self) -> str:
        """Its log so far."""
        return (self.base / "hub.log").read_text()


def waiting(directory: Path) -> int:
    """Records in a device's spool that no receipt covers yet."""
    with sqlite3.connect(f"file:{directory / 'spool.db'}?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM records").fetchone()[0])
