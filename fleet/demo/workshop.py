"""The demo's folders and ports, and its calls of the public commands."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fleet.client import Client, HttpTransport
from fleet.demo.processes import DemoError, Process, free_port, quiet_environment, run_to_end, wait_for

MODEL = "digits"
CHANNEL = "stable"
DEVICES = ("kiosk-1", "kiosk-2", "kiosk-3")
MARK = ".edgeloop-demo"  # a file in a directory that a demo has made, and may empty
SETTLED = ("committed", "rolled_back", "idle")


class Workshop:
    """The demo's directory, processes, and commands. Changes go through commands; looking goes through the API."""

    def __init__(self, directory: Path, seed: int, console: Console, devices: Sequence[str] = DEVICES) -> None:
        self.directory = directory.resolve()
        self.seed = seed
        self.console = console
        self.started = time.monotonic()
        clean(self.directory)
        self.logs = self.directory / "logs"
        self.logs.mkdir(parents=True)
        self.hub_dir = self.directory / "hub"
        self.hub_port, self.broker_port = free_port(), free_port()
        self.devices = tuple(devices)
        self.agent_ports = {device: free_port() for device in devices}
        self.url = f"https://127.0.0.1:{self.hub_port}"
        self.ca = self.hub_dir / "keys" / "ca.pem"
        self.env = quiet_environment(
            {
                "EDGELOOP_CONFIG": str(self.directory / "fleet.toml"),
                "EDGELOOP_PASSPHRASE": secrets.token_hex(16),
                "EDGELOOP_HUB_BROKER__PORT": str(self.broker_port),
                "EDGELOOP_HUB_ENGINES__ROLLOUT_TICK_S": "0.5",
                "EDGELOOP_HUB_ENGINES__DRIFT_TICK_S": "1",
                "EDGELOOP_DIGITS_SEED": str(seed),
            }
        )
        self.processes: dict[str, Process] = {}
        self._client: Client | None = None

    # ---- telling -----------------------------------------------------------------------------

    def act(self, title: str) -> None:
        """Say that an act begins."""
        self.console.print(f"\n[bold]{title}[/bold] [dim]({self.seconds:.0f} s)[/dim]")

    def say(self, text: str) -> None:
        """Say one thing that happened."""
        self.console.print(f"  {text}")

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self.started

    # ---- commands ----------------------------------------------------------------------------

    def command(self, module: str, *arguments: object, timeout_s: float = 120.0, expect: int = 0) -> str:
        """Run `python -m module …` to its end; returns its standard output."""
        words = [sys.executable, "-m", module, *map(str, arguments)]
        with self.console.status(f"{module.split('.')[0].replace('_', '-')} {' '.join(map(str, arguments[:3]))}"):
            return run_to_end(words, log=self.logs / "commands.log", timeout_s=timeout_s, env=self.env, expect=expect)

    def fleet(self, *arguments: object, timeout_s: float = 60.0, expect: int = 0) -> dict[str, Any]:
        """Run a `fleet` command with --json; returns its document."""
        out = self.command("fleet.cli.main", *arguments, "--json", timeout_s=timeout_s, expect=expect)
        document: dict[str, Any] = json.loads(out) if out.strip() else {}
        return document

    def start(self, name: str, module: str, *arguments: object, extra: dict[str, str] | None = None) -> Process:
        """Start a long-running `python -m module …` under `name`."""
        words = [sys.executable, "-m", module, *map(str, arguments)]
        process = Process(name, words, log=self.logs / f"{name}.log", env={**self.env, **(extra or {})})
        process.start()
        self.processes[name] = process
        self._remember_pids()
        return process

    def restart(self, name: str) -> None:
        """Start a stopped or killed process again."""
        self.processes[name].start()
        self._remember_pids()

    def stop_all(self) -> None:
        """Stop everything, agents first."""
        for name in reversed(self.processes):
            self.processes[name].stop()

    # ---- looking -----------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The hub's API with the admin's token."""
        if self._client is None:
            self._client = Client(HttpTransport(self.url, ca=self.ca), self.admin_token())
        return self._client

    def admin_token(self) -> str:
        """Return the operator token that `cloud-hub init` wrote to the hub's folder."""
        return (self.directory / "admin-token").read_text(encoding="utf-8").strip()

    def agent_dir(self, device: str) -> Path:
        """A device's state directory."""
        return self.directory / device

    def local(self, device: str, model: str = MODEL) -> dict[str, Any]:
        """Return the state that a device itself records of a model (`state.json`); empty before the first write."""
        try:
            document = json.loads((self.agent_dir(device) / "state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        found: dict[str, Any] = document.get("models", {}).get(model, {})
        return found

    def serves(self, device: str, release: int) -> bool:
        """Tell whether the device has committed `release` and nothing is under way."""
        local = self.local(device)
        return (local.get("active") or {}).get("release") == release and local.get("state") in SETTLED

    def active(self, device: str) -> int | None:
        """The release that answers on a device, committed or still on probation."""
        return (self.local(device).get("active") or {}).get("release")

    def wait_installed(self, release: int, *, timeout_s: float = 60.0) -> float:
        """Wait until every device has committed `release`; returns the seconds it took."""
        return self.wait(
            f"release {release} on every device",
            lambda: all(self.serves(device, release) for device in self.devices),
            timeout_s=timeout_s,
        )

    def check(self) -> None:
        """Raise DemoError when a process has ended by itself."""
        for process in self.processes.values():
            process.check()

    def wait(self, what: str, condition: Callable[[], object], *, timeout_s: float, every_s: float = 0.2) -> float:
        """`wait_for`, while every process lives."""

        def checked() -> object:
            self.check()
            return condition()

        with self.console.status(what):
            return wait_for(what, checked, timeout_s=timeout_s, every_s=every_s)

    def _remember_pids(self) -> None:
        pids = [process.pid for process in self.processes.values()]
        (self.directory / "pids.json").write_text(json.dumps(pids), encoding="utf-8")


def clean(directory: Path) -> None:
    """End what an earlier demo left running in `directory`, and empty it."""
    pids, mark = directory / "pids.json", directory / MARK
    if directory.exists() and any(directory.iterdir()) and not mark.is_file():
        raise DemoError(
            f"{directory} is not a demo's directory ({MARK} is missing): remove it, or choose another with --dir"
        )
    if pids.exists():
        for pid in json.loads(pids.read_text(encoding="utf-8")):
            if str(directory) in command_line(pid):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    mark.touch()


def command_line(pid: int) -> str:
    """The words that a process was started with; empty where it has ended, or has none yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def agent_ports(shop: Workshop) -> list[int]:
    """The agents' ports."""
    return [shop.agent_ports[device] for device in shop.devices]
