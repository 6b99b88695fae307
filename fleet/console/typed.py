"""The dealings that all commands made with Typer share: `--version`, and no option of one value twice."""

# Annotations stay values here: Typer cannot resolve text that names what is local to a function.

import sys
from collections.abc import Collection
from typing import Annotated

import typer

from fleet.console import installed_version
from fleet.console.exits import Exit
from fleet.console.repeated import HINT, given_twice


def with_version(app: typer.Typer, name: str) -> None:
    """Give a command `--version`."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{name} {installed_version()}")
            raise typer.Exit

    option = typer.Option("--version", help="Show the version.", is_eager=True, callback=show)

    @app.callback()
    def root(wanted: Annotated[bool, option] = False) -> None:
        pass


def run_app(app: typer.Typer, services: Collection[str] = ()) -> None:
    """Run the command line; ends the process where an option of one value is given twice.

    Args:
        app: the commands.
        services: those that start one, of which the last value holds (`fleet.console.arguments`).
    """
    twice = given_twice(typer.main.get_command(app), sys.argv[1:])
    if twice and sys.argv[1] not in services:
        typer.echo(f"error: {twice} is given twice, and takes one value", err=True)
        typer.echo(f"try: {HINT}", err=True)
        sys.exit(Exit.USAGE)
    app()
