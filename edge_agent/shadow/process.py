"""The process that runs a shadowed release, seen from the agent: start, ask, end. What it breaks is only itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Protocol

from edge_agent.config import load_config
from edge_agent.errors import ShadowError
from edge_agent.host.child_process import kill
from edge_agent.shadow.child import ANSWER_LIMIT, Answered, ShadowRequest, framed
from edge_agent.shadow.copies import Copy
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import ProtocolError
from fleet.protocol.tensors import to_array


class Process(Protocol):
    """A shadowed release in memory."""

    async def ask(self, copy: Copy) -> Answered:
        """Run a request and compare with the answer that it got; raises ShadowError, ProtocolError."""

    async def close(self) -> None:
        """End it."""


class Processes(Protocol):
    """Starts shadowed releases."""

    async def start(self, held: HeldRelease) -> tuple[Process, float]:
        """A release in a process of its own, and the seconds of the processor that loading took.

        Raises:
            ShadowError: the release ended the process, or cannot be loaded; `too-slow` and `killed` (from outside) are
            no fault of it that is known. OSError: no process can be started now.
        """


class ChildProcesses:
    """Implements `Processes` by processes of this interpreter (`shadow.child`)."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._config = directory, load_config(directory)

    async def start(self, held: HeldRelease) -> tuple[ChildProcess, float]:
        """See the port."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edge_agent.update.worker.process",
            "shadow",
            str(self._directory),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 16,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        child = ChildProcess(process, self._config.selftest_wall_s)
        try:
            loaded = await child.say(framed(held))
            if loaded.failed:
                raise ShadowError(f"it cannot be loaded: {loaded.failed}", subject=held.variant)
        except BaseException:
            await child.close()
            raise
        return child, loaded.cpu_s


class ChildProcess:
    """Implements `Process`; what has not answered after `wall_s` seconds has failed."""

    def __init__(self, process: asyncio.subprocess.Process, wall_s: float) -> None:
        self._process, self._wall_s = process, wall_s
        self._talking = asyncio.Lock()

    async def ask(self, copy: Copy) -> Answered:
        """See the port."""
        inputs, outputs = (tuple(to_array(*item) for item in some.items()) for some in (copy.inputs, copy.outputs))
        return await self.say(framed(ShadowRequest(rollout=copy.rollout, inputs=inputs, outputs=outputs)))

    async def say(self, frame: bytes) -> Answered:
        """Send a frame; the next one that comes back. Raises ShadowError."""
        try:
            async with asyncio.timeout(self._wall_s), self._talking:
                return await self._say(frame)
        except TimeoutError as error:
            why = f"it had not answered after {self._wall_s:g} s"  # where others are busy, its priority may get nothing
            raise ShadowError(why, reason="too-slow") from error

    async def _say(self, frame: bytes) -> Answered:
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None and writer is not None
        try:
            writer.write(frame)
            await writer.drain()
            size = int.from_bytes(await reader.readexactly(4), "little")
            if size > ANSWER_LIMIT:
                raise ShadowError(f"it said {size} bytes, more than an answer has")
            return decode_msgpack(await reader.readexactly(size), Answered, limit=ANSWER_LIMIT)
        except ProtocolError as error:
            raise ShadowError(f"what it said makes no sense: {error}") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            await self._gone()
            code = self._process.returncode
            reason = "killed" if code == -signal.SIGKILL else ""  # from outside: for want of memory, say
            raise ShadowError(f"its process ended with code {code}", reason=reason) from error

    async def close(self) -> None:
        """See the port; whoever waits for an answer hears of the end first."""
        kill(self._process)
        async with self._talking:
            await self._gone()

    async def _gone(self) -> None:
        kill(self._process)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        while await self._process.stdout.read(1 << 16):  # asyncio hears of its end when the pipe is empty
            pass
        await self._process.wait()
