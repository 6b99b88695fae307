"""The label check that a custom task brings along: a function of its owner's, run in a process of its own.

The function takes a label, plain JSON, and returns it as it is kept; it raises ValueError (or anything else) with what
is wrong. Like a recipe it is code that somebody put into `DIR/recipes` (ADR 0007), and runs as one does: in a child
with limits of time and memory, without the hub's settings.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.execution.child import ChildExecutor
from cloud_hub.execution.port import ExecutionError, Limits, OverLimitError, Progress, Work

LIMIT_S = 20.0  # for all labels of a request
MEMORY = 2 << 30  # bytes
WORDS = 500  # characters of a check's own words
NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*\.py):([A-Za-z_][A-Za-z0-9_]*)")


class LabelCheck(Struct, frozen=True, kw_only=True):
    """The check's result for one label: the form in which it is kept, or its fault."""

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

    Raises InvalidError for anything else under `labels`, which an earlier version let in.
    """
    settings = policy.get("labels", {})
    if not isinstance(settings, Mapping) or set(settings) - {"check"} or not isinstance(settings.get("check", ""), str):
        hint = '{"labels": {"check": "FILE.py:FUNCTION"}}'
        raise InvalidError("the labels part of the policy knows only a check", subject="policy.labels", hint=hint)
    name = str(settings.get("check", ""))
    if name:
        check_name(name)
    return name


def ask(folder: Path, name: str, labels: Sequence[Any], *, limit_s: float = LIMIT_S) -> list[LabelCheck]:
    """Ask the check called `name` about each label.

    Args:
        folder: `DIR/recipes`.
        name: `FILE.py:FUNCTION`.
        labels: plain JSON.
        limit_s: seconds for all of them.

    Raises:
        NotFoundError: no such file.
        InvalidError: it does not load, has no such function, ended, or took too long.
    """
    file, function = check_name(name)
    path = folder / file
    if not path.is_file():
        raise NotFoundError(f"no label check {path}", subject=name, hint="put the file into DIR/recipes on the hub")
    arguments = {"path": str(path), "function": function, "labels": list(labels)}
    limits = Limits(wall_s=limit_s, memory_bytes=MEMORY)
    with tempfile.TemporaryDirectory() as place:
        work = Work("cloud_hub.samples.owners_check:judge", Path(place), arguments)
        try:
            found = ChildExecutor(limits).run(work, progress=lambda step, share: None, check=lambda: None)
        except OverLimitError as error:
            hint = f"a check has {limit_s:g} s and {MEMORY >> 20} MB for all labels of a request"
            raise InvalidError(f"the label check {name} was ended: {error}", subject=name, hint=hint) from error
        except ExecutionError as error:
            raise InvalidError(f"the label check {name} failed: {str(error)[:WORDS]}", subject=name) from error
    return msgspec.convert(found["found"], list[LabelCheck])


def judge(folder: Path, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Judge labels by the owner's check, in the child.

    Raises:
        InvalidError: the file has no such function.
    """
    path = Path(arguments["path"])
    spec = importlib.util.spec_from_file_location("_label_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # its siblings
    spec.loader.exec_module(module)
    check = getattr(module, arguments["function"], None)
    if not callable(check):
        raise InvalidError(f"there is no function {arguments['function']} in {path.name}", subject=path.name)
    return {"found": [msgspec.to_builtins(_judge(check, label)) for label in arguments["labels"]]}


def _judge(check: Any, label: Any) -> LabelCheck:
    try:
        kept = json.loads(json.dumps(check(label), allow_nan=False))
    except Exception as error:  # noqa: BLE001 (whatever it raises says that the label is wrong)
        return LabelCheck(wrong=str(error)[:WORDS] or type(error).__name__)
    return LabelCheck(wrong="the check returned nothing for it") if kept is None else LabelCheck(kept=kept)
