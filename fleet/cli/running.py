"""Runs a command of `fleet`: its errors become a message, a hint and an exit code."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from fleet.cli.output import print_note
from fleet.cli.session import Session
from fleet.console import flush
from fleet.console.exits import Exit, of_os_error
from fleet.errors import FleetError
from fleet.protocol.errors import ProtocolError


def run_command(app: Callable[..., Any], arguments: Sequence[str], session: Session) -> int:
    """Run one command of `app` and return its exit code; errors go to standard error."""
    try:
        try:
            app(args=list(arguments), prog_name="fleet", obj=session)
        finally:
            flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except FleetError as error:
        return say(str(error), error.hint, error.exit_code)
    except ProtocolError as error:
        return say(str(error), error.hint, 1)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return say(*_refused(error))
    return 0


def _refused(error: OSError) -> tuple[str, str, int]:
    """Return the message, the hint and the exit code for a file, folder or medium that refuses."""
    what = error.strerror or str(error) or type(error).__name__
    text = f"{error.filename}: {what}" if error.filename is not None else what
    code = of_os_error(error)
    if code is Exit.NOT_ALLOWED:
        return text, "give this user the right to it, or name another place", code
    hints = {
        errno.ENOENT: "name a file or folder that is there",
        errno.ENOSPC: "free space there",
        errno.EROFS: "mount it writable",
        errno.EIO: "try another medium",
    }
    return text, hints.get(error.errno or 0, ""), code


def say(message: str, hint: str, code: int) -> int:
    """Write an error with what to do to standard error, and return its exit code."""
    print_note(f"error: {message}")
    if hint:
        print_note(f"try: {hint}")
    return code
