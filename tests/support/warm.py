"""The agent's children as forks of a process that has imported what they need: their code without their start.

`python -m tests.support.warm FD` is that process. For each request that comes by the socket FD it forks a keeper, which
forks the child, says its number, waits for it, and says what it ended with: four bytes each.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_agent.update.worker import process
from edge_agent.update.worker.client import ProcessChildren
from tests.support.forked import forked

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "edge_agent.identity.http",
    "edge_agent.update.worker.resolve_targets",
    "edge_agent.update.worker.tuf_client",
)
REQUEST = 1 << 20  # bytes
NUMBER = struct.Struct("i")  # on a pipe, where a busy reader finds both numbers at once
_PR_SET_PDEATHSIG = 1


class WarmChildren(ProcessChildren):
    """Implements `Children` as the agent does, but for the start of the interpreter."""

    async def _spawn(self, kind: str, *more: str) -> Any:
        pipes = [os.pipe(), os.pipe(), os.pipe()]
        (theirs_in, ours_in), (ours_out, theirs_out), (status, said) = pipes
        theirs = [theirs_in, theirs_out, said]
        request = {"argv": [kind, str(self._directory), *more], "environment": dict(os.environ), "cwd": str(Path.cwd())}
        socket.send_fds(_server(), [json.dumps(request).encode()], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        pid = heard(status)
        assert pid > 0, "the process that forks has died"
        return await forked(pid, ours_in, ours_out, status, lambda: heard(status))


def heard(status: int) -> int:
    """The next number that a keeper says; that of a kill when it has died."""
    data = os.read(status, NUMBER.size)
    number: int = NUMBER.unpack(data)[0] if data else -signal.SIGKILL
    return number


@functools.cache
def _server() -> socket.socket:
    """The process that forks, one for each process that asks; it ends when that one does.

    It is nobody's child, since tests look whether they leave a child behind.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.run(
        [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
        cwd=ROOT,
        pass_fds=[theirs.fileno()],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=True,
    )
    theirs.close()
    return ours


def _serve(asked: socket.socket) -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    while True:
        request, theirs, _, _ = socket.recv_fds(asked, REQUEST, 3)
        if not request:
            return
        if os.fork() == 0:
            asked.close()
            _keep(json.loads(request), *theirs)
        for descriptor in theirs:
            os.close(descriptor)


def _keep(request: dict[str, Any], stdin: int, stdout: int, said: int) -> None:
    """Fork the child, and say when it has ended; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # and this one's end is the child's
    pid = os.fork()
    if pid == 0:
        _become(request, stdin, stdout)
    os.close(stdin)
    os.close(stdout)
    os.write(said, NUMBER.pack(pid))
    os.write(said, NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def _become(request: dict[str, Any], stdin: int, stdout: int) -> None:
    """Be the child; does not return."""
    code = 70
    try:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.closerange(3, 1024)
        sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        code = process.main(request["argv"])
    finally:
        os._exit(code)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)
    _serve(socket.socket(fileno=int(sys.argv[1])))
