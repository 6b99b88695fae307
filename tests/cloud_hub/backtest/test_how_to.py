"""`docs/how-to/watch-for-drift.md` works as it stands where it says so: its files are written, its commands run."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from tests.support.commands import call

PAGE = (Path(__file__).parents[3] / "docs/how-to/watch-for-drift.md").read_text()
PART = PAGE.split("## Try it on your own history", 1)[1]
FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_history_of_the_page_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = ""
    for kind, name, text in FENCE.findall(PART):
        if kind == "python":
            (tmp_path / name).write_text(text)
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line.removeprefix("$ "))
            if program == "python":
                runpy.run_path(words[0], run_name="__main__")
                continue
            answer = call(program, *words)
            assert answer.returncode == 0, f"{line}\n{answer.stdout}\n{answer.stderr}"
            said = answer.stdout
    assert "1 alarm" in said and "pump-2" in said and "temperature" in said
    assert "2026-03-07" in said, said
