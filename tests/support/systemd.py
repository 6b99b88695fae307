"""The words of systemd's own tools on a unit, and the system calls that a traced program may make in it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.require import require

# Calls that every program makes all the time, and that no filter leaves out: tracing them would cost most.
OFTEN = frozenset({"read", "openat", "newfstatat", "lseek", "close", "mmap", "munmap", "brk", "mprotect", "getdents64"})


def analysed(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """`systemd-analyze` with these words."""
    tool = require("systemd-analyze", "systemd")
    return subprocess.run([tool, *words], capture_output=True, text=True, check=False, timeout=60)


def allowed_calls(unit: str) -> set[str]:
    """The system calls that a unit's filter lets through."""
    known = _groups()
    words = " ".join(re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE)).split()
    return set().union(*(_expanded(word, known) for word in words))


def watch(trace: Path) -> list[str | Path]:
    """The words before a command that has strace write its calls, but those in OFTEN, to `trace`."""
    strace = require("strace", "strace")
    return [strace, "-f", "-qq", "--seccomp-bpf", "-e", f"trace=!{','.join(sorted(OFTEN))}", "-o", trace]


def traced_calls(*traces: Path) -> set[str]:
    """The names of the calls in what strace wrote."""
    text = "".join(trace.read_text() for trace in traces)
    return set(re.findall(r"^\d+ +([a-z_0-9]+)\(", text, re.MULTILINE))


def _groups() -> dict[str, set[str]]:
    """The members of systemd's groups of calls, other groups among them."""
    found: dict[str, set[str]] = {}
    for line in analysed("syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            members = found[line.strip()] = set()
        elif line.startswith(" ") and not line.strip().startswith("#"):
            members.add(line.strip())
    return found


def _expanded(word: str, known: dict[str, set[str]]) -> set[str]:
    """The calls of a word of a filter."""
    return set().union(*(_expanded(one, known) for one in known[word])) if word.startswith("@") else {word}
