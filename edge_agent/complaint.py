"""An error as what the command says: one line, a hint, and an exit code."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from edge_agent.errors import AgentError, said
from edge_agent.host.owner import sudo, user
from fleet.console.exits import Exit, of_os_error
from fleet.protocol.errors import ProtocolError


class Complaint(Struct, frozen=True):
    """The text for stderr, and the exit code."""

    text: str
    hint: str
    exit_code: int


def complaint(error: AgentError | ProtocolError | OSError, command: str, directory: Path | None) -> Complaint:
    """Return the complaint about an error that ended a command.

    Args:
        error: as it was raised.
        command: of `edge-agent`.
        directory: the agent's, where the command has one.
    """
    if isinstance(error, AgentError):
        return Complaint(str(error), error.hint, error.exit_code)
    if isinstance(error, ProtocolError):
        return Complaint(str(error), error.hint, 1)
    what = error.strerror or str(error) or type(error).__name__
    text = f"{os.fsdecode(error.filename)}: {what}" if isinstance(error.filename, str | bytes | Path) else what
    code = of_os_error(error)
    if code is not Exit.NOT_ALLOWED:
        return Complaint(text, said(error)[1], code)
    return Complaint(f"{text} (as user {user(os.geteuid())})", _as_whom(command, directory), code)


def _as_whom(command: str, directory: Path | None) -> str:
    """The command of the agent's own user, as far as this one may see who that is."""
    try:
        owner = directory.stat().st_uid if directory is not None else os.geteuid()
    except OSError:
        owner = os.geteuid()
    if directory is None or owner == os.geteuid():
        return "give this user the right to it, or run the command as one who has it"
    return f"{sudo(owner)} edge-agent {command} … --dir {directory}"
