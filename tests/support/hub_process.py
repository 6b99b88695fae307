"""`cloud-hub serve` as an operator starts it: a process on free ports, its log, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("EDGELOOP_")}
START_S = 240.0  # seconds; a start takes two, and thirty on a machine where many others compute


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cloud_hub(*arguments: object, code: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `cloud-hub …` of the code in a folder to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cloud_hub", *map(str, arguments)],
        env={**ENVIRONMENT, "EDGELOOP_PASSPHRASE": "secret", "PYTHONPATH": str(code), **environment},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=code,
    )


class HubProcess:
    """One start of the hub in `directory` by the code in a folder, `under` another program where that has words."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        under: Sequence[str | Path] = (),
        code: Path = ROOT,
        **environment: str,
    ) -> None:
        self.directory, self.port, self.broker_port = directory, free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._context = ssl.create_default_context(cafile=str(directory / "keys" / "ca.pem"))
        self._log = directory.parent / f"{directory.name}.{self.port}.log"
        ports = ("--port", str(self.port), "--broker-port", str(self.broker_port))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "cloud_hub", "serve", str(directory), *ports, *arguments],
                env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(code), **environment},
                stdout=log,
                stderr=log,
                cwd=code,
            )

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of one answer; OSError when there is none."""
        try:
            with urllib.request.urlopen(self.url + path, context=self._context, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def call(self, method: str, path: str, token: str, body: Any = None) -> Any:
        """The JSON of one answer to whoever has `token`; AssertionError when it is refused, OSError without one."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, method=method)
        asked.add_header("Content-Type", "application/octet-stream" if body is data else "application/json")
        if token:
            asked.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(asked, context=self._context, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def mosquitto(self) -> int:
        """The process id of the hub's broker, as its file says."""
        return int((self.directory / "broker" / "mosquitto.pid").read_text().split()[0])

    def until(self, path: str, status: int, seconds: float = START_S) -> Any:
        """Ask again and again until `path` answers with `status`; the document."""
        deadline, last = time.monotonic() + seconds, None
        while True:
            with contextlib.suppress(OSError):
                last = self.get(path)
                if last[0] == status:
                    return last[1]
            assert self.process.poll() is None and time.monotonic() < deadline, f"{last}\n{self.log()}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(START_S)


@contextlib.contextmanager
def serving(directory: Path, *arguments: str, code: Path = ROOT, **environment: str) -> Iterator[HubProcess]:
    """A hub that is ready; stopped at the end of the block."""
    hub = HubProcess(directory, *arguments, code=code, **environment)
    try:
        hub.until("/readyz", 200)
        yield hub
    finally:
        hub.stop()
