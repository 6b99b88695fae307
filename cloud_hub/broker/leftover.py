"""The Mosquitto of a hub that was killed: it still listens, with an old revocation list.

Only what is proved to be ours is ended: the process whose number lies in our folder, which runs our configuration,
and which started when that was written. A number may belong to somebody else by now.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

from cloud_hub.errors import ConflictError

log = logging.getLogger(__name__)
CONFIGURATION = "mosquitto.conf"
PID_FILE = "mosquitto.pid"
STOP_S = 5.0


def remember(folder: Path, pid: int) -> None:
    """Write down the Mosquitto that was just started in `folder`: its number, and when it started."""
    (folder / PID_FILE).write_text(f"{pid} {_started(pid)}")


def end_leftover(folder: Path) -> None:
    """End the Mosquitto that an earlier hub left behind in `folder`, if there is one.

    Raises:
        ConflictError: there is, and it is another user's.
    """
    try:
        pid, _, started = (folder / PID_FILE).read_text().partition(" ")  # 0.1 wrote the number alone
        number = int(pid)
    except (OSError, ValueError):
        return
    until = time.monotonic() + STOP_S
    if not is_ours(folder, number, started):
        return
    log.warning("ending the mosquitto that an earlier hub left behind (process %d)", number)
    try:
        os.kill(number, signal.SIGTERM)
        while is_ours(folder, number, started):
            if time.monotonic() > until:
                os.kill(number, signal.SIGKILL)
            time.sleep(0.05)
    except ProcessLookupError:
        return
    except PermissionError as error:
        why = f"the mosquitto that an earlier hub left behind (process {number}) belongs to another user"
        raise ConflictError(why, subject="broker", hint="end it, or run the hub as that user") from error


def is_ours(folder: Path, pid: int, started: str = "") -> bool:
    """Tell whether process `pid` is a Mosquitto with the configuration in `folder`, and was `started` then, if
    known."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-c", os.fsencode(folder / CONFIGURATION)] and started in ("", _started(pid))


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine did; empty where the kernel does not say."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
