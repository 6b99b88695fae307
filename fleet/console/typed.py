"""The option that all commands made with Typer share: `--version`."""

# Annotations stay values here: Typer cannot resolve text that names what is local to a function.

from typing import Annotated

import typer

from fleet.console import version


def with_version(app: typer.Typer, name: str) -> None:
    """Give a command `--version`."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{name} {version()}")
            raise typer.Exit

    option = typer.Option("--version", help="Show the version.", is_eager=True, callback=show)

    @app.callback()
    def root(wanted: Annotated[bool, option] = False) -> None:
        pass
