"""Options that say one thing are refused when they are given twice: the last one would win in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def given_twice(command: Any, arguments: Sequence[str]) -> str:
    """Return the first option that is given again though the command takes one value for it; empty without any.

    Args:
        command: Click's, with its groups.
        arguments: of the command line.
    """
    seen: set[str] = set()
    rest = iter(arguments)
    for argument in rest:
        inner = getattr(command, "commands", {}).get(argument)
        if inner is not None:
            command = inner
            continue
        if argument == "--":
            return ""
        name, equals, _ = argument.partition("=")
        option = next((one for one in command.params if name in one.opts), None)
        if option is None or not name.startswith("-") or option.is_flag or option.count:
            continue
        if not equals:
            next(rest, None)  # its value, which may look like an option
        if option.name in seen and not option.multiple:
            return name
        seen.add(option.name)
    return ""
