"""The child that runs a piece of users' code: `python -m cloud_hub.execution.child_main FD`, its Spec on stdin.

It says on file descriptor FD how far it is (`messages`), prints to its log, and ends with its parent. Whatever goes on
in it afterwards, threads included, ends with its last word.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import msgspec

from cloud_hub.execution.messages import Message, Spec, WorkDone, WorkProgress, failure_of
from cloud_hub.execution.port import Work, entry_of

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
OOM_FIRST = "1000"  # should the machine run out of memory, this process goes first


def main(descriptor: int) -> None:
    """Do what stdin says; never returns."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    os.set_inheritable(descriptor, False)
    _confine(spec)
    sys.path[:] = spec.paths
    said = WorkProgress(step="", share=0.0)

    def progress(step: str, share: float) -> None:
        nonlocal said
        if step != said.step or share >= 1.0 or share - said.share >= 0.005:
            said = WorkProgress(step=step, share=float(share))
            _say(descriptor, said)

    work = Work(entry=spec.entry, folder=Path(spec.folder), arguments=spec.arguments)
    try:
        last: Message = WorkDone(result=entry_of(work)(work.folder, work.arguments, progress))
        _say(descriptor, last)
    except BaseException as error:  # noqa: BLE001 (the boundary of users' code: SystemExit and the like included)
        traceback.print_exc()
        _say(descriptor, failure_of(error))
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # a thread that users' code has left behind would keep the process


def _say(descriptor: int, message: Message) -> None:
    data = msgspec.json.encode(message) + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def _confine(spec: Spec) -> None:
    """Limits that the system itself holds; the parent holds the others.

    Memory is limited by private writable pages, not by addresses: a GPU's driver reserves far more of those.
    """
    system = ctypes.CDLL(None, use_errno=True)
    system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != spec.parent:
        os._exit(1)  # it died before that was asked for
    system.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what its children leave behind stays in sight
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_FIRST, "ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, most in ((resource.RLIMIT_DATA, spec.memory_bytes), (resource.RLIMIT_FSIZE, spec.disk_bytes)):
        if most is not None:
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    faulthandler.enable()


if __name__ == "__main__":
    main(int(sys.argv[1]))
