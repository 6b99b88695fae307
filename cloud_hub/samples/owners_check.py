"""The label check that a custom task brings along: a function of its owner's, run in a process of its own.

The function takes a label, plain JSON, and returns it as it is kept; it raises ValueError (or anything else) with what
is wrong. Like a recipe it is code that somebody put into `DIR/recipes` (ADR 0007); it runs with a limit of time, and
neither an endless loop, nor `sys.exit`, nor a crash in it reaches the hub.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from cloud_hub.errors import InvalidError, NotFoundError

LIMIT_S = 20.0  # for all labels of a request
WORDS = 500  # characters of a check's own words
NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*\.py):([A-Za-z_][A-Za-z0-9_]*)")


class Found(Struct, frozen=True, kw_only=True):
    """What the check says of one label: how it is kept, or what is wrong with it."""

    kept: Any = None
    wrong: str = ""


def check_name(name: str) -> tuple[str, str]:
    """The file and the function in `FILE.py:FUNCTION`; InvalidError for anything else."""
    match = NAME.fullmatch(name)
    if match is None:
        hint = "the bare name of a file in DIR/recipes and a function in it, such as units.py:check_label"
        raise InvalidError(f"{name!r} is not FILE.py:FUNCTION", subject="label_check", hint=hint)
    return match[1], match[2]


def check_of(policy: Mapping[str, Any]) -> str:
    """The check that a model's policy names (`{"labels": {"check": "FILE.py:FUNCTION"}}`); empty without one.

    Raises InvalidError for anything else under `labels`.
    """
    settings = policy.get("labels", {})
    if not isinstance(settings, Mapping) or set(settings) - {"check"} or not isinstance(settings.get("check", ""), str):
        hint = '{"labels": {"check": "FILE.py:FUNCTION"}}'
        raise InvalidError("the labels part of the policy knows only a check", subject="policy.labels", hint=hint)
    name = str(settings.get("check", ""))
    if name:
        check_name(name)
    return name


def ask(folder: Path, name: str, labels: Sequence[Any], *, limit_s: float = LIMIT_S) -> list[Found]:
    """What the check called `name` says of each label.

    Args:
        folder: `DIR/recipes`.
        name: `FILE.py:FUNCTION`.
        labels: plain JSON.
        limit_s: seconds for all of them.

    Raises:
        NotFoundError: no such file. InvalidError: it does not load, has no such function, ended, or took too long.
    """
    file, function = check_name(name)
    path = folder / file
    if not path.is_file():
        raise NotFoundError(f"no label check {path}", subject=name, hint="put the file into DIR/recipes on the hub")
    command = [sys.executable, "-m", "cloud_hub.samples.owners_check", str(path), function]
    asked = msgspec.json.encode(list(labels))
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise InvalidError(f"the label check {name} took longer than {limit_s:g} s", subject=name) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise InvalidError(f"the label check {name} failed: {said[0][:WORDS]}", subject=name, hint="mend the file")
    try:
        found = msgspec.json.decode(done.stdout, type=list[Found])
    except msgspec.DecodeError as error:
        raise InvalidError(f"the label check {name} gave no answer: {error}", subject=name) from error
    if len(found) != len(labels):
        raise InvalidError(f"the label check {name} judged {len(found)} of {len(labels)} labels", subject=name)
    return found


def main(path: str, function: str) -> None:
    """The child: labels as JSON on standard input, what is found of them on standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the check prints is no answer
    labels = msgspec.json.decode(sys.stdin.buffer.read())
    spec = importlib.util.spec_from_file_location("_label_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).parent))  # its siblings
    spec.loader.exec_module(module)
    check = getattr(module, function, None)
    if not callable(check):
        raise SystemExit(f"there is no function {function} in {Path(path).name}")
    found = [_judge(check, label) for label in labels]
    answers.write(json.dumps([{"kept": one.kept, "wrong": one.wrong} for one in found]).encode())
    answers.close()


def _judge(check: Any, label: Any) -> Found:
    try:
        kept = json.loads(json.dumps(check(label), allow_nan=False))
    except Exception as error:  # noqa: BLE001 (whatever it raises says that the label is wrong)
        return Found(wrong=str(error)[:WORDS] or type(error).__name__)
    return Found(wrong="the check returned nothing for it") if kept is None else Found(kept=kept)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
