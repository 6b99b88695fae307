"""Starts a command whose packages an extra installs: without them it names the extra, and shows no traceback."""

from __future__ import annotations

import sys
from importlib import import_module

OURS = ("fleet", "edge_agent", "cloud_hub", "model_compiler")


def start_command(command: str, module: str, extra: str) -> None:
    """Run `module`'s `main`; exit code 1 when a package that `edgeloop[extra]` installs is missing.

    Args:
        command: as a person calls it.
        module: one of ours, whose imports are tried here.
        extra: of `edgeloop`.
    """
    try:
        run = import_module(module).main
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:  # a fault of ours, not of the installation
            raise
        print(f"error: {command} needs the package {error.name}, which is not installed", file=sys.stderr)
        print(f"try: pip install 'edgeloop[{extra}]'", file=sys.stderr)
        sys.exit(1)
    run()
