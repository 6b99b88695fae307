"""`fleet recipe`: recipes on this machine, tried without a hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.session import JsonFlag
from fleet.errors import FailedError

app = typer.Typer(name="recipe", help="Recipes: the Python modules that train models.", no_args_is_help=True)


@app.callback()
def recipe() -> None:
    """Recipes: the Python modules that train models."""


@app.command("check")
def check(
    file: Annotated[str, typer.Argument(help="A .py file, or a module's name.")],
    json: JsonFlag = False,
    timeout: Annotated[float, typer.Option(help="Seconds until it is given up.")] = 300.0,
) -> None:
    """Try a recipe on a handful of rows, without a hub, and say what it lacks: exit code 0 when it is ready.

    Its code runs in a process of its own; the hub's packages must be installed there: pip install 'edgeloop[demo]'.

    Example: fleet recipe check recipes/wear.py
    """
    if file.endswith(".py") and not Path(file).is_file():
        raise FailedError(f"no recipe {file}", subject=file, hint="name a .py file, or a module that is installed")
    command = [sys.executable, "-m", "cloud_hub", "train", file, "--check", *(["--json"] if json else [])]
    try:
        done = subprocess.run(command, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise FailedError(
            f"the recipe had not ended after {timeout:g} s",
            subject=file,
            hint="look for what it waits for, or --timeout",
        ) from error
    if done.returncode < 0:
        raise FailedError(f"the recipe's process was ended by signal {-done.returncode}", subject=file)
    raise typer.Exit(done.returncode)
