"""A parser of arguments that refuses an option of one value that is given twice: the last one would win in silence."""

from __future__ import annotations

import argparse
from typing import Any

from fleet.console.repeated import HINT


class Parser(argparse.ArgumentParser):
    """As `argparse.ArgumentParser`, its subcommands too.

    Args:
        service: whether it starts one. Its options come from unit files and scripts that append others, of which the
            last one holds: no upgrade may keep a device's agent from starting.
    """

    def __init__(self, *args: Any, service: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.given: set[str] = set()
        if service:
            return
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse.ArgumentParser`."""
        self.given.clear()
        return super().parse_known_args(args, namespace)


class _Once(argparse._StoreAction):
    """Keeps a value, one time."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        assert isinstance(parser, Parser)  # which made this action
        if option is not None and self.dest in parser.given:
            parser.error(f"{option} is given twice, and takes one value; {HINT}")
        parser.given.add(self.dest)
        super().__call__(parser, namespace, values, option)
