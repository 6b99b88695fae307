"""The exit codes of all four commands: one for one thing, whichever command it is. Their help and reference show it."""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Exit(IntEnum):
    """The exit codes of a command. The errors of each room have these numbers; a test holds them against this table."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    UNREACHABLE = 6
    HALTED = 7
    LATE = 8
    STOOD_STILL = 70  # sysexits.h: EX_SOFTWARE
    INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


MEANING = {
    Exit.DONE: "done",
    Exit.FAILED: "failed, for a reason that has no number of its own: the message says which",
    Exit.USAGE: "usage: the command cannot mean anything",
    Exit.NOT_FOUND: "not found: no such device, release, file or folder",
    Exit.NOT_ALLOWED: "not allowed: no credential, one that does not allow this, or a file that is another user's",
    Exit.CONFLICT: "conflict: it exists, changed meanwhile, or is in use",
    Exit.UNREACHABLE: "unreachable: hub, broker, database or object store does not answer",
    Exit.HALTED: "a rollout was halted or aborted",
    Exit.LATE: "timed out: it was not done in time, and may go on",
    Exit.STOOD_STILL: "an agent that stood still ended itself, to be started again",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}
SHORT = (
    "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 unreachable, 7 rollout halted or "
    "aborted, 8 timed out, 70 an agent that stood still, 130 interrupted."
)


def of_os_error(error: OSError) -> Exit:
    """Return the exit code for a file, a folder or a medium that refuses."""
    # By kind and not by number: an ssl.SSLError has a number of OpenSSL's own there, of which 1 would be EPERM.
    if isinstance(error, PermissionError):
        return Exit.NOT_ALLOWED
    return Exit.NOT_FOUND if isinstance(error, FileNotFoundError) else Exit.FAILED
