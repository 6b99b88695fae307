from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main

from fleet.cli.main import app
from fleet.console.repeated import given_twice


def commands() -> list[tuple[str, ...]]:
    root = typer.main.get_command(app)
    found: list[tuple[str, ...]] = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [(name, sub) for sub in inner] if inner else [(name,)]
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(fleet, path: tuple[str, ...]) -> None:
    outcome = fleet(*path, "--help")
    assert outcome.code == 0
    assert f"Example: fleet {' '.join(path)}" in " ".join(outcome.out.split())


def test_the_commands_of_the_tutorial_are_there() -> None:
    expected = """login|token create|device list|device show|device label|device set|device revoke|release publish
    release list|release show|release withdraw|channel show|channel set|rollout create|rollout list
    rollout status|rollout watch|rollout pause|rollout resume|rollout abort|rollout retry|model create
    snapshot create|snapshot list|retrain
    job list|job show|job watch|job log|job cancel|drift status|sample list|sample export|sample label|sample delete
    audit list|demo"""
    wanted = {tuple(part.split()) for line in expected.split("\n") for part in line.strip().split("|")}
    assert wanted <= set(commands())


def test_without_a_login_it_says_how(fleet) -> None:
    outcome = fleet("device", "list", environment={})
    assert outcome.code == 4
    assert outcome.out == ""
    assert outcome.err.startswith("error: not logged in")
    assert "try: fleet login" in outcome.err


def test_an_unknown_command_is_a_usage_error(fleet) -> None:
    assert fleet("frobnicate").code == 2
    assert fleet("device", "list", "--label", "nonsense").code == 2


@pytest.mark.parametrize(
    ("arguments", "twice"),
    [
        (("token", "create", "--scope", "infer:a", "--scope", "infer:b"), "--scope"),
        (("token", "create", "--note=a", "--note", "b"), "--note"),
        (("channel", "set", "c", "-m", "a", "--model", "b"), "--model"),
        (("channel", "set", "c", "-ma", "-mb"), "-m"),
        (("channel", "set", "c", "-ma", "--release", "-mb"), ""),  # a release that looks like an option
        (("token", "create", "--label", "a=b", "--label", "c=d"), ""),
        (("token", "create", "--note", "--scope", "--scope", "infer:a"), ""),  # a note that looks like an option
        (("sample", "label", "a=1", "--json", "--json"), ""),
        (("sample", "label", "--by", "ada", "--", "--by", "b"), ""),
        (("nonsense", "--by", "a", "--by", "b"), ""),
    ],
)
def test_an_option_of_one_value_is_not_taken_twice(fleet, arguments: tuple[str, ...], twice: str) -> None:
    """The last one would win in silence: a token for one model, where two were asked for."""
    assert given_twice(typer.main.get_command(app), arguments) == twice
    if twice:
        outcome = fleet(*arguments)
        assert outcome.code == 2 and f"{twice} is given twice" in outcome.err


def test_a_hub_that_is_away_gives_six(fleet, hub) -> None:
    hub.reachable = False
    outcome = fleet("device", "list")
    assert (outcome.code, outcome.out) == (6, "")
    assert "error: connection refused" in outcome.err


def test_help_is_answered_without_loading_what_only_requests_need() -> None:
    code = (
        "import sys; from fleet.cli.main import run; from fleet.cli.session import Session;"
        "run(['channel', 'set', '--help'], Session({}));"
        "print(sorted({'urllib3', 'numpy', 'cryptography', 'torch', 'fastapi'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
