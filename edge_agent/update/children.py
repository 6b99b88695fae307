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

from edge_agent.config import load
from edge_agent.errors import TrialError, UpdateError
from edge_agent.update.lines import Asked, Done, Failed, Message, Ready, Step
from edge_agent.update.machine import Held

LINE_LIMIT = 4 << 20


class LookChild(Protocol):
    """A look under way."""

    async def look(self, asked: Asked) -> list[Message]:
        """Everything up to `Ready`; raises UpdateError with the child's reason."""

    def step(self, step: Step) -> AsyncIterator[Message]:
        """Take one step: its progress, then `Done` or `Failed`."""

    async def close(self) -> None:
        """End the child; what it downloaded stays."""


class Children(Protocol):
    """Starts children."""

    async def start(self) -> LookChild:
        """A child that can look."""

    async def trial(self, held: Held) -> tuple[str, ...]:
        """Run the self-test and say what confined it (`Done.sandbox`).

        Raises:
            TrialError: it failed; the reason is `killed` when somebody else ended it, and `selftest-timeout`
                when it was ended here.
        """


class ProcessChildren:
    """Implements `Children` by processes of this interpreter; they look at the hub, or at the folder `bundle`."""

    def __init__(self, directory: Path, bundle: Path | None = None) -> None:
        self._directory, self._bundle = directory, bundle
        self._config = load(directory)

    async def start(self) -> ProcessChild:
        """See the port."""
        return ProcessChild(await self._spawn("look", *([str(self._bundle)] if self._bundle is not None else [])))

    async def trial(self, held: Held) -> tuple[str, ...]:
        """See the port. A child that dies has failed. One that only waits uses no processor time, and self-tests
        run one at a time: a limit by the clock keeps it from holding up the other models."""
        process = await self._spawn("trial")
        limit = self._config.selftest_wall_s
        try:
            async with asyncio.timeout(limit):
                out, _ = await process.communicate(msgspec.json.encode(held) + b"\n")
        except TimeoutError:
            why = f"the self-test had not ended after {limit:g} s, and was ended"
            hint = "it waits for something, or the device is too slow for it: selftest_wall_s in agent.toml"
            raise TrialError(why, subject=held.variant, hint=hint, reason="selftest-timeout") from None
        finally:
            await _end(process)
        message = _last(out)
        if process.returncode == 0 and isinstance(message, Done):
            return message.sandbox
        if isinstance(message, Failed):
            raise TrialError(message.detail, subject=held.variant, hint=message.hint, reason=_word(message))
        if process.returncode == -signal.SIGXCPU:
            why = f"the self-test used more than {self._config.selftest_cpu_s} s of processor time"
            raise TrialError(why, subject=held.variant, hint="selftest_cpu_s in agent.toml is the limit")
        why = f"the self-test died with code {process.returncode}"
        raise TrialError(why, subject=held.variant, reason="killed" if process.returncode == -signal.SIGKILL else "")

    async def _spawn(self, kind: str, *more: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edge_agent.update.child", kind, str(self._directory), *more,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_LIMIT,
            # numpy's threads would start before the child confines itself, and it has no use for them
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip


class ProcessChild:
    """Implements `LookChild`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def look(self, asked: Asked) -> list[Message]:
        """See the port."""
        await self._say(asked)
        messages: list[Message] = []
        async for message in self._lines():
            messages.append(message)
            if isinstance(message, Ready):
                return messages
            if isinstance(message, Failed):
                raise UpdateError(message.detail, reason=message.reason, hint=message.hint)
        raise UpdateError("the child ended before it had looked", reason="interrupted")

    async def step(self, step: Step) -> AsyncIterator[Message]:
        """See the port."""
        await self._say(step)
        async for message in self._lines():
            yield message
            if isinstance(message, Done | Failed):
                return
        yield Failed(reason="interrupted", detail=f"the child ended during {step.step}")

    async def close(self) -> None:
        """See the port."""
        await _end(self._process)

    async def _say(self, message: Struct) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its last line says why
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            await self._process.stdin.drain()

    async def _lines(self) -> AsyncIterator[Message]:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield msgspec.json.decode(line, type=Message)


def _word(failure: Failed) -> str:
    """A disk that lies or is full says nothing about the release; everything else does."""
    return failure.reason if failure.reason in ("hash-mismatch", "disk-full") else "selftest-failed"


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()


def _last(out: bytes) -> Message | None:
    lines = out.strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1], type=Message) if lines else None
    except msgspec.DecodeError:
        return None
