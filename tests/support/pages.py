"""A page of the documentation, done as it says: its files are written, its commands run."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

from tests.support.commands import call

FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def follow(text: str, folder: Path) -> str:
    """Do what a part of a page says, in a folder that is the current one; return what its last command printed."""
    said = ""
    for kind, name, block in FENCE.findall(text):
        if kind == "python":
            (folder / name).write_text(block)
            continue
        for line in block.splitlines():
            program, *words = shlex.split(line.removeprefix("$ "))
            if program == "python":
                runpy.run_path(words[0], run_name="__main__")
                continue
            answer = call(program, *words)
            assert answer.returncode == 0, f"{line}\n{answer.stdout}\n{answer.stderr}"
            said = answer.stdout
    return said
