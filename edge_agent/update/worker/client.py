"""The serving process's side of the children: start, ask, read lines, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from edge_agent.config import load_config
from edge_agent.errors import TrialError, UpdateError
from edge_agent.host.child_process import kill
from edge_agent.update.messages import Confined, Failed, LookRequest, Message, Ready, StepDone, StepRequest
from edge_agent.update.rules.model_state import HeldRelease

LINE_LIMIT = 4 << 20
TALK_LINES, TALK_BYTES = 1000, 1 << 20  # what a self-test may write; more would keep the serving loop busy
EMPTY_S = 5.0  # for what an ended self-test left in its pipe
DETAIL_LIMIT = 1000  # characters of what it says of itself: they go to the disk and into reports


class LookChild(Protocol):
    """A look under way."""

    async def look(self, asked: LookRequest) -> list[Message]:
        """Everything up to `Ready`; raises UpdateError with the child's reason."""

    def step(self, step: StepRequest) -> AsyncIterator[Message]:
        """Take one step: its progress, then `StepDone` or `Failed`."""

    async def close(self) -> None:
        """End the child; what it downloaded stays."""


class Children(Protocol):
    """Starts children."""

    async def start(self) -> LookChild:
        """A child that can look."""

    async def trial(self, held: HeldRelease) -> tuple[str, ...]:
        """Run the self-test and say what confined it (`messages.Confined`).

        Raises:
            TrialError: it failed; the reason is `killed` when somebody else ended it, and `selftest-timeout`
                when it was ended here.
        """


class ProcessChildren:
    """Implements `Children` by processes of this interpreter; they look at the hub, or at the folder `bundle`."""

    def __init__(self, directory: Path, bundle: Path | None = None) -> None:
        self._directory, self._bundle = directory, bundle
        self._config = load_config(directory)

    async def start(self) -> ProcessChild:
        """See the port."""
        process = await self._spawn("look", *([str(self._bundle)] if self._bundle is not None else []))
        return ProcessChild(process, self._config.look_wall_s)

    async def trial(self, held: HeldRelease) -> tuple[str, ...]:
        """See the port. A child that dies has failed. One that only waits uses no processor time, and self-tests
        run one at a time: a limit by the clock keeps it from holding up the other models."""
        heard = _Heard()
        try:
            process = await self._spawn("trial")
        except OSError as refused:  # no memory or process is left: that says nothing about the release
            why = f"the self-test cannot be started: {refused}"
            raise TrialError(why, subject=held.variant, reason="killed") from refused
        try:
            async with asyncio.timeout(self._config.selftest_wall_s):
                await heard.listen(process, held)
        except TimeoutError:
            heard.last = self._too_long()
        finally:
            await _end_and_empty(process)
        if process.returncode == 0 and isinstance(heard.last, StepDone):
            return heard.sandbox
        blamed = heard.last if isinstance(heard.last, Failed) else self._died(process.returncode)
        under = f"it ran under {', '.join(heard.sandbox)}" if heard.sandbox else "it had not been confined yet"
        detail, hint = blamed.detail[:DETAIL_LIMIT], blamed.hint[:DETAIL_LIMIT]
        error = TrialError(f"{detail} ({under})", subject=held.variant, hint=hint, reason=_word(blamed.reason))
        error.sandbox = heard.sandbox
        raise error

    def _too_long(self) -> Failed:
        why = f"the self-test had not ended after {self._config.selftest_wall_s:g} s, and was ended"
        hint = "it waits for something, or the device is too slow for it: selftest_wall_s in agent.toml"
        return Failed(reason="selftest-timeout", detail=why, hint=hint)

    def _died(self, code: int | None) -> Failed:
        if code == -signal.SIGXCPU:
            why = f"the self-test used more than {self._config.selftest_cpu_s} s of processor time"
            return Failed(reason="", detail=why, hint="selftest_cpu_s in agent.toml is the limit")
        reason = "killed" if code == -signal.SIGKILL else ""
        return Failed(reason=reason, detail=f"the self-test died with code {code}")

    async def _spawn(self, kind: str, *more: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edge_agent.update.worker.process",
            kind,
            str(self._directory),
            *more,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            # numpy's threads would start before the child confines itself, and it has no use for them
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )


class ProcessChild:
    """Implements `LookChild`; a look that has not ended after `look_wall_s` seconds is given up."""

    def __init__(self, process: asyncio.subprocess.Process, look_wall_s: float) -> None:
        self._process, self._look_wall_s = process, look_wall_s

    async def look(self, asked: LookRequest) -> list[Message]:
        """See the port. The child bounds every answer that it reads; should one get around that, this ends it."""
        try:
            async with asyncio.timeout(self._look_wall_s):
                return await self._looked(asked)
        except TimeoutError as error:
            why = f"the look had not ended after {self._look_wall_s:g} s, and was ended"
            hint = "the hub or the network holds it up, or the device is too slow for it: look_wall_s in agent.toml"
            raise UpdateError(why, reason="too-slow", hint=hint) from error

    async def _looked(self, asked: LookRequest) -> list[Message]:
        await _tell(self._process, asked)
        messages: list[Message] = []
        async for message in self._lines():
            messages.append(message)
            if isinstance(message, Ready):
                return messages
            if isinstance(message, Failed):
                raise UpdateError(message.detail, reason=message.reason, hint=message.hint)
        raise UpdateError("the child ended before it had looked", reason="interrupted")

    async def step(self, step: StepRequest) -> AsyncIterator[Message]:
        """See the port."""
        await _tell(self._process, step)
        async for message in self._lines():
            yield message
            if isinstance(message, StepDone | Failed):
                return
        yield Failed(reason="interrupted", detail=f"the child ended during {step.step}")

    async def close(self) -> None:
        """See the port."""
        await _end(self._process)

    async def _lines(self) -> AsyncIterator[Message]:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield msgspec.json.decode(line, type=Message)


class _Heard:
    """Listens to a self-test's child: what confined it, and its last word.

    Once the model runs, all of it may be the model's own doing. What confines it was said before.
    """

    def __init__(self) -> None:
        self.sandbox: tuple[str, ...] = ()
        self.last: Message | None = None
        self._lines = self._bytes = 0

    async def listen(self, process: asyncio.subprocess.Process, held: HeldRelease) -> None:
        """Tell the child what to try, and read until it has ended."""
        assert process.stdout is not None
        await _tell(process, held)
        try:
            async for line in process.stdout:
                self._lines, self._bytes = self._lines + 1, self._bytes + len(line)
                if self._lines > TALK_LINES or self._bytes > TALK_BYTES:
                    self.last = Failed(reason="", detail="the self-test wrote without end")
                    return
                with contextlib.suppress(ValueError, RecursionError):  # a runtime may print what it likes
                    self.last = msgspec.json.decode(line, type=Message)
                    if isinstance(self.last, Confined):
                        self.sandbox = self.sandbox or self.last.sandbox
            await process.wait()
        except ValueError:  # of the stream's limit
            self.last = Failed(reason="", detail="the self-test wrote a line without end")


async def _tell(process: asyncio.subprocess.Process, message: Struct) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its last line says why
        process.stdin.write(msgspec.json.encode(message) + b"\n")
        await process.stdin.drain()


def _word(reason: str) -> str:
    """A disk that lies or is full says nothing about the release, nor does who killed the child."""
    return reason if reason in ("hash-mismatch", "disk-full", "killed", "selftest-timeout") else "selftest-failed"


async def _end_and_empty(process: asyncio.subprocess.Process) -> None:
    """For asyncio a process has ended once its pipes have, and nobody hears a full one's end without reading it.
    A process that the model may have left behind keeps the pipe open: it is not waited for."""
    kill(process)
    assert process.stdout is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(EMPTY_S):
            while await process.stdout.read(TALK_BYTES):
                pass
            await process.wait()


async def _end(process: asyncio.subprocess.Process) -> None:
    kill(process)
    await process.wait()
