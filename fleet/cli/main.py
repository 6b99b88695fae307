"""The `fleet` command. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 conflict,
6 unreachable, 7 rollout halted or aborted, 8 timed out.
"""

from __future__ import annotations

import errno
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
)
from fleet.cli.session import Session
from fleet.errors import FleetError
from fleet.protocol.errors import ProtocolError

HELP = """Steer a fleet of edge devices through its hub.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 unreachable,
7 rollout halted or aborted, 8 timed out.
"""

app = typer.Typer(
    name="fleet",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("login")(login.login)
app.command("retrain")(retrain.retrain)
app.command("demo")(demo_command.demo)
app.command("simulate")(simulate.simulate)
for _noun in (token, device, release, channel, model, recipe, rollout, snapshot, job, drift, sample, audit):
    app.add_typer(_noun.app)


def run(arguments: Sequence[str], session: Session) -> int:
    """Run one command and return its exit code; errors go to standard error."""
    try:
        app(args=list(arguments), prog_name="fleet", obj=session)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except FleetError as error:
        return _say(str(error), error.hint, error.exit_code)
    except ProtocolError as error:
        return _say(str(error), error.hint, 1)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _say(*_refused(error))
    return 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:], Session(os.environ)))


def _refused(error: OSError) -> tuple[str, str, int]:
    """What to say when a file, folder or medium refuses: message, hint, exit code."""
    what = error.strerror or str(error) or type(error).__name__
    text = f"{error.filename}: {what}" if error.filename is not None else what
    if error.errno in (errno.EACCES, errno.EPERM):
        return text, "give this user the right to it, or name another place", 4
    hints = {errno.ENOSPC: "free space there", errno.EROFS: "mount it writable", errno.EIO: "try another medium"}
    return text, hints.get(error.errno or 0, ""), 1


def _say(message: str, hint: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    if hint:
        sys.stderr.write(f"try: {hint}\n")
    return code


if __name__ == "__main__":
    main()
