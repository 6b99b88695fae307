"""Commands that the documentation shows exist: each command and subcommand answers --help.

Fenced `console` and `bash` blocks of the README and the tutorial are read; every line that calls
one of the four commands is looked at. Running them for real is the business of the demo's test.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import call

ROOT = Path(__file__).parents[2]
PROGRAMS = ("edge-agent", "cloud-hub", "model-compiler", "fleet")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ *```(?:console|bash|sh|shell)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every call of our commands in the fenced blocks of a page."""
    found = []
    for block in FENCE.findall(text):
        joined = block.replace("\\\n", " ")
        console = any(line.lstrip().startswith("$ ") for line in joined.splitlines())
        for line in joined.splitlines():
            line = line.strip()
            if console and not line.startswith("$ "):
                continue  # output
            for part in re.split(r"&&|\|\||[|;&]", line.removeprefix("$ ").split(" #")[0]):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words and Path(words[0]).name in PROGRAMS:
                    found.append([Path(words[0]).name, *words[1:]])
    return found


def subcommand(words: list[str]) -> tuple[str, ...]:
    """The command with its nouns and verbs: at most two plain lower-case words."""
    plain = [words[0]]
    for word in words[1:]:
        if not re.fullmatch(r"[a-z][a-z-]*", word) or len(plain) == 3:
            break
        plain.append(word)
    return tuple(plain)


SHOWN = sorted({subcommand(words) for page in PAGES for words in commands(page.read_text())})


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_has_help(program: str) -> None:
    binary = Path(sys.executable).with_name(program)
    answer = subprocess.run([binary, "--help"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert "usage" in answer.stdout.lower()


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_every_command_that_a_page_shows_exists(words: tuple[str, ...]) -> None:
    answer = call(*words, "--help")  # a last plain word may be an argument: --help is answered before it is read
    assert answer.returncode == 0, answer.stderr
    assert "usage" in answer.stdout.lower()


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert call("fleet", "rollout", "frobnicate", "--help").returncode == 2
    assert call("fleet", "rollout", "create", "digits", "--help").returncode == 0


def test_the_readme_shows_our_commands() -> None:
    programs = {words[0] for words in commands((ROOT / "README.md").read_text())}
    assert programs >= {"edge-agent", "cloud-hub", "fleet"}


def test_the_reader_of_pages_sees_calls_and_not_output() -> None:
    call = "$ A=1 .venv/bin/fleet device list --json \\\n  --x | head"
    page = f"```console\n{call}\nfleet not a call\n```\n```python\nfleet x\n```\n"
    assert commands(page) == [["fleet", "device", "list", "--json", "--x"]]
    assert subcommand(["fleet", "device", "show", "d1"]) == ("fleet", "device", "show")
    assert subcommand(["edge-agent", "infer", "--input", "x"]) == ("edge-agent", "infer")
