"""The updater's children as threads of this process, so that a test can turn their clock."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError, TrialError, UpdateError
from edge_agent.runtimes import selftest
from edge_agent.update.disk.store import Store
from edge_agent.update.messages import Failed, Message, Ready, StepDone
from edge_agent.update.worker import process
from fleet.protocol.errors import ProtocolError


class InProcessChildren:
    """Implements `client.Children` around the same `process.Session`."""

    def __init__(self, config: AgentConfig, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock

    async def start(self) -> InProcessChild:
        return InProcessChild(self._config, self._clock)

    async def trial(self, held) -> tuple[str, ...]:
        store = Store(self._config.dir)
        try:
            outcome = await asyncio.to_thread(selftest.run, store.manifest(held.manifest), held.variant, store.blobs)
        except (AgentError, ProtocolError) as error:
            raise TrialError(str(error), subject=held.variant) from error
        if not outcome.passed:
            raise TrialError(outcome.reason, subject=held.variant)
        return ()


class InProcessChild:
    """Implements `client.LookChild`; it is also the session's output file."""

    def __init__(self, config: AgentConfig, clock: Callable[[], float]) -> None:
        self._config, self._clock = config, clock
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._said: asyncio.Queue[Message | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            process.Session(self._config, iter(self._lines.get, None), self, clock=self._clock).run()
        except (AgentError, ProtocolError, OSError) as error:
            process.emit(process.failed(error), self)
        finally:
            self._loop.call_soon_threadsafe(self._said.put_nowait, None)

    def write(self, line: bytes) -> None:
        self._loop.call_soon_threadsafe(self._said.put_nowait, msgspec.json.decode(line, type=Message))

    def flush(self) -> None:
        """Every line is handed over at once."""

    async def look(self, asked) -> list[Message]:
        self._lines.put(msgspec.json.encode(asked))
        messages: list[Message] = []
        while (message := await self._said.get()) is not None:
            messages.append(message)
            if isinstance(message, Ready):
                return messages
            if isinstance(message, Failed):
                raise UpdateError(message.detail, reason=message.reason, hint=message.hint)
        raise UpdateError("the child ended before it had looked", reason="interrupted")

    async def step(self, step) -> Any:
        self._lines.put(msgspec.json.encode(step))
        while (message := await self._said.get()) is not None:
            yield message
            if isinstance(message, StepDone | Failed):
                return

    async def close(self) -> None:
        self._lines.put(None)
        await asyncio.to_thread(self._thread.join)
