"""Options that say one thing are refused when they are given twice: the last one would win in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HINT = "give it once; --help says which may be repeated"


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
        name, option, attached = _valued(command, argument)
        if option is None:
            continue
        if not attached:
            next(rest, None)  # its value, which may look like an option
        if option.name in seen and not option.multiple:
            return name
        seen.add(option.name)
    return ""


def _valued(command: Any, argument: str) -> tuple[str, Any, bool]:
    """The option in an argument that takes a value, by its name, None without one; and whether the value is in it.

    Behind one dash may be several options of a letter each, of which the last one may take what follows as its value.
    """
    known = {name: option for option in command.params for name in option.opts if name.startswith("-")}
    name, equals, _ = argument.partition("=")
    if name in known:
        option = known[name]
        return (name, option, bool(equals)) if _takes_value(option) else (name, None, False)
    letters = argument[1:] if argument.startswith("-") and not argument.startswith("--") else ""
    for place, letter in enumerate(letters, 1):
        option = known.get(f"-{letter}")
        if option is None:
            break
        if _takes_value(option):
            return f"-{letter}", option, place < len(letters)
    return argument, None, False


def _takes_value(option: Any) -> bool:
    return not option.is_flag and not option.count
