"""The owner of an agent's directory: another user's agent can neither read nor replace the files there.

So the commands that write there refuse a wrong user before anything is written, root above all: files that root
left would keep the agent from starting.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from edge_agent.errors import UsageError


def check_owner(directory: Path, command: str, uid: int | None = None) -> None:
    """Refuse to write in `directory` as another user than the agent's (`uid`: this process's own).

    The agent's user is the one that wrote `state.json`, before the first start the one that enrolled. The folder
    itself may be anybody's: a volume of a container is.

    Args:
        directory: of the agent.
        command: that wants to write there, for the hint.
        uid: the user; None for this process's own.

    Raises:
        UsageError: this user is another one; the hint has the command that mends it.
        OSError: this user may not even look.
    """
    me = os.geteuid() if uid is None else uid
    places = [path for path in (directory / "state.json", directory / "identity", directory) if path.exists()]
    if not places or (owner := places[0].stat().st_uid) == me:
        return
    if me and me in [path.stat().st_uid for path in places[1:]]:  # somebody, mostly root, has been here before
        raise UsageError(
            f"{places[0]} belongs to {user(owner)}, not to {user(me)}",
            subject=str(directory),
            hint=f"sudo chown -R {user(me)} {directory}",
        )
    raise UsageError(
        f"the agent in {directory} belongs to {user(owner)}, not to {user(me)}",
        subject=str(directory),
        hint=f"{sudo(owner)} edge-agent {command} … --dir {directory}",
    )


def user(uid: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def sudo(uid: int) -> str:
    """Return the prefix that runs a command as that user."""
    name = user(uid)
    return f"sudo -u '#{name}'" if name.isdecimal() else f"sudo -u {name}"
