"""The quick demo's workshop: `fleet` commands run in this process, since each start of one takes a second."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console

from fleet.demo.processes import DemoError
from fleet.demo.workshop import Workshop

DEVICES = ("kiosk-1", "kiosk-2")
Commands = Callable[[Sequence[str], Mapping[str, str]], int]  # of `fleet`: words and environment to an exit code


class QuickShop(Workshop):
    """Two devices; the hub starts no job worker, since there are no jobs."""

    def __init__(self, directory: Path, console: Console, commands: Commands) -> None:
        super().__init__(directory, 0, console, DEVICES)
        self.env["EDGELOOP_HUB_WORKER__LOCAL"] = "false"
        self._commands = commands

    def fleet(self, *arguments: object, timeout_s: float = 60.0, expect: int = 0) -> dict[str, Any]:
        """Run a `fleet` command with --json; returns its document. Raises DemoError for another exit code."""
        words = [*map(str, arguments), "--json"]
        out, error = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(error):
            code = self._commands(words, self.env)
        with (self.logs / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"$ fleet {' '.join(words)}\n{out.getvalue()}{error.getvalue()}")
        if code != expect:
            raise DemoError(f"fleet {' '.join(words[:3])} ended with exit code {code}:\n{error.getvalue()}")
        document: dict[str, Any] = json.loads(out.getvalue()) if out.getvalue().strip() else {}
        return document
