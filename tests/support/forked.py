"""A fork in place of a started process, for who talks to it through asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from edge_agent.update.worker.client import LINE_LIMIT


class Forked:
    """The part of `asyncio.subprocess.Process` that the agent uses, for a fork.

    `watch` is a descriptor that can be read once the fork has ended, and `code` says what it ended with.
    """

    def __init__(
        self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, watch: int, code: Callable[[], int]
    ) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._watch, self._code = watch, code
        self._ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._watch, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._watch)
        self.returncode = self._code()
        os.close(self._watch)
        self._ended.set_result(None)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> int | None:
        await asyncio.shield(self._ended)
        if not self.stdin.is_closing():
            self.stdin.transport.abort()
        return self.returncode

    async def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.stdin.write(data)
            await self.stdin.drain()
            self.stdin.close()
        out = await self.stdout.read()
        await self.wait()
        return out, b""


async def forked(pid: int, stdin: int, stdout: int, watch: int = -1, code: Callable[[], int] | None = None) -> Forked:
    """The fork `pid` by our ends of its pipes; a child of this process unless `watch` and `code` are given."""
    if code is None:
        watch = os.pidfd_open(pid)
        code = lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: E731
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(stdout, "rb", 0))
    transport, flow = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(stdin, "wb", 0))
    return Forked(pid, asyncio.StreamWriter(transport, flow, None, loop), reader, watch, code)
