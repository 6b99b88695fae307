"""The `fleet` command. Its exit codes are those of `fleet.console.exits`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from fleet.cli import (
    audit,
    channel,
    demo_command,
    device,
    drift,
    event,
    experiment,
    job,
    login,
    model,
    recipe,
    release,
    retrain,
    rollout,
    sample,
    simulate,
    snapshot,
    token,
    tune,
)
from fleet.cli.formats import with_output
from fleet.cli.running import run_command, say
from fleet.cli.session import Session
from fleet.console import write_any_letter
from fleet.console.exits import SHORT
from fleet.console.repeated import HINT, given_twice
from fleet.console.typed import with_version

HELP = f"Steer a fleet of edge devices through its hub.\n\n{SHORT}"

app = typer.Typer(
    name="fleet",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("login")(login.login)
app.command("retrain")(retrain.retrain)
app.command("tune")(tune.tune)
app.command("demo")(demo_command.demo)
app.command("simulate")(simulate.simulate)
for _noun in (
    token,
    device,
    release,
    channel,
    model,
    recipe,
    rollout,
    snapshot,
    job,
    experiment,
    drift,
    sample,
    event,
    audit,
):
    app.add_typer(_noun.app)
with_version(app, "fleet")
with_output(app)


def run(arguments: Sequence[str], session: Session) -> int:
    """Run one command and return its exit code; errors go to standard error."""
    command = typer.main.get_command(app)
    twice = given_twice(command, arguments)
    if twice:
        return say(f"{twice} is given twice, and takes one value", HINT, 2)
    return run_command(command, arguments, session)


def main() -> None:
    """The console script."""
    write_any_letter()
    sys.exit(run(sys.argv[1:], Session(os.environ)))


if __name__ == "__main__":
    main()
