"""`fleet demo`: the whole loop on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.running import run_command
from fleet.cli.session import Session


def demo(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="A first look: nothing is trained.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Draws the split of the data and the traffic.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave hub, agents and traffic running.")] = False,
    directory: Annotated[Path, typer.Option("--dir", help="Working directory; emptied first.")] = Path(".demo"),
    report: Annotated[Path, typer.Option("--report", help="Where the measured figures go.")] = Path("demo-report.json"),
) -> None:
    """Train, compile, sign, roll out, infer, fall back, drift, retrain: with real processes, in minutes.

    With --quick it publishes two small releases that come with the package, serves one on two devices, rolls the other
    out in two stages, and takes the hub away; edgeloop[hub] is enough for that. --seed and --report mean nothing there.

    Example: fleet demo --quick
    """
    if quick:
        from fleet.demo.quick.main import run_quick

        def commands(words: Sequence[str], environment: Mapping[str, str]) -> int:
            return run_command(context.find_root().command, words, Session(environment))

        raise typer.Exit(run_quick(commands, keep=keep, directory=directory))
    from fleet.demo.main import run_demo

    raise typer.Exit(run_demo(seed=seed, keep=keep, directory=directory, report=report))
