"""`fleet demo`: the whole loop on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    seed: Annotated[int, typer.Option("--seed", help="Draws the split of the data and the traffic.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave hub, agents and traffic running.")] = False,
    directory: Annotated[Path, typer.Option("--dir", help="Working directory; emptied first.")] = Path(".demo"),
    report: Annotated[Path, typer.Option("--report", help="Where the measured figures go.")] = Path("demo-report.json"),
) -> None:
    """Train, compile, sign, roll out, infer, fall back, drift, retrain: with real processes, in minutes.

    Example: fleet demo --seed 1
    """
    from fleet.cli.demo.main import run_demo

    raise typer.Exit(run_demo(seed=seed, keep=keep, directory=directory, report=report))
