"""`scripts/run-tests` as a shell script: what its parts end with is what it ends with, and nothing stays behind."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In the place of python: which part it is stands in the arguments, what it shall end with in the environment.
FAKE = """#!/bin/sh
case "$*" in
*tests.support.rewritten*) exit 0 ;;
*"-m alone"*) part=alone; code=$ALONE ;;
*"-m fault"*) part=fault; code=$FAULT; printf 'faults of %s\\n' "$EDGELOOP_RUN" ;;
*) part=rest; code=$REST ;;
esac
echo "$part ${TMPDIR:-}" >>"$SAID"
if [ "$code" = hang ]; then echo $$ >"$SAID.pid"; exec sleep 600; fi
if [ "$code" = stop ]; then
    until [ -s "$SAID.pid" ]; do :; done
    kill -TERM $PPID
    exit 0
fi
exit "$code"
"""
NONE = 5


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A folder with the fake alone."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(FAKE)
    fake.chmod(0o755)
    return fake.parent


def run(python: Path, alone: object, fault: object, rest: object, size: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script with parts that end so."""
    said = python / "said"
    said.unlink(missing_ok=True)
    environment = {
        "PATH": f"{python}:{os.environ['PATH']}",
        "SAID": str(said),
        "TMPDIR": str(python),
        "EDGELOOP_SIZE": size,
        "ALONE": str(alone),
        "FAULT": str(fault),
        "REST": str(rest),
    }
    command = [ROOT / "scripts" / "run-tests", "tests"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def left(python: Path) -> list[str]:
    """Folders that were given to a part and still exist, and temporary files."""
    given = {line.split()[1] for line in (python / "said").read_text().splitlines()} - {str(python)}
    return [path for path in given if Path(path).exists()] + [str(path) for path in python.glob("tmp.*")]


@pytest.mark.parametrize("size", ["", "full"])
def test_it_ends_with_the_failure_of_any_part_and_shows_what_faults_said(python: Path, size: str) -> None:
    for alone, fault, rest in itertools.product((0, NONE), (0, 2, NONE), (0, 1, NONE)):
        done = run(python, alone, fault, rest, size)
        failed = next((code for code in (rest, fault) if code not in (0, NONE)), 0)
        none = {alone, fault, rest} == {NONE}
        assert done.returncode == (NONE if none else failed), (alone, fault, rest, done.stderr)
        assert "faults of 2" in done.stdout and done.stderr == ""
        assert left(python) == []


@pytest.mark.parametrize("code", [1, 4])
def test_the_others_do_not_begin_when_those_that_run_alone_fail(python: Path, code: int) -> None:
    assert run(python, code, 0, 0).returncode == code
    assert [line.split()[0] for line in (python / "said").read_text().splitlines()] == ["alone"]
    assert left(python) == []


def test_who_ends_it_ends_the_faults_too(python: Path) -> None:
    assert run(python, 0, "hang", "stop").returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((python / "said.pid").read_text()), 0)
    assert left(python) == []
