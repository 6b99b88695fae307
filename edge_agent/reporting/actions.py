"""What a verified command makes the device do; the answer goes into the spool as a result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_agent.errors import AgentError, NotFoundError, UsageError
from edge_agent.reporting.recorder import Recorder
from edge_agent.reporting.uploader import Uploader
from edge_agent.serving.slots import Arrays, Served, Slots
from fleet.protocol.messages import Command, CommandResult
from fleet.protocol.tensors import dtype_of

log = logging.getLogger(__name__)

RUNS = 100
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Actions:
    """Carries out commands one after the other, off the path of MQTT messages."""

    def __init__(
        self,
        recorder: Recorder,
        uploader: Uploader | None,
        slots: Slots,
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._recorder = recorder
        self._uploader = uploader
        self._slots = slots
        self._status = status
        self._queue: asyncio.Queue[Command] = asyncio.Queue(64)

    def handle(self, command: Command) -> None:
        """Queue a command; one too many is answered at once with a failure."""
        try:
            self._queue.put_nowait(command)
        except asyncio.QueueFull:
            self._recorder.result(CommandResult(id=command.id, ok=False, detail="too many commands are waiting"))

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            command = await self._queue.get()
            try:
                data = await self._do(command)
            except (AgentError, ValueError, RuntimeError, TypeError) as error:
                log.warning("command %s (%s) failed: %s", command.id, command.kind, error)
                self._recorder.result(CommandResult(id=command.id, ok=False, detail=str(error)))
            else:
                self._recorder.result(CommandResult(id=command.id, ok=True, detail=command.kind, data=data))

    async def _do(self, command: Command) -> dict[str, Any]:
        if command.kind == "diagnose":
            return self._status()
        if command.kind == "send-samples":
            self._recorder.want_samples(str(command.args.get("model", "")), int(command.args.get("count", 100)))
            if self._uploader is not None:
                self._uploader.wake()
            return {}
        if command.kind == "benchmark":
            return await self._benchmark(str(command.args.get("model", "")))
        if command.kind == "set-log-level":
            return _set_level(str(command.args.get("level", "")))
        raise UsageError(f"command {command.kind!r} is unknown here", hint="update the agent")

    async def _benchmark(self, model: str) -> dict[str, Any]:
        with self._slots.lease(model) as served:
            if served is None:
                raise NotFoundError(f"model {model!r} is not served here", subject=model)
            return await asyncio.to_thread(benchmark, served)


def benchmark(served: Served, runs: int = RUNS) -> dict[str, Any]:
    """Latency of the bare model at batch 1 on zeros, in microseconds."""
    manifest = served.release.manifest
    inputs: Arrays = {
        t.name: np.zeros(tuple(1 if size == -1 else size for size in t.shape), dtype_of(t.datatype))
        for t in manifest.inputs
    }
    took = []
    for _ in range(runs):
        started = time.perf_counter()
        served.run(inputs)
        took.append((time.perf_counter() - started) * 1e6)
    return {
        "model": served.release.model,
        "release": served.release.number,
        "runtime": served.runtime,
        "runs": runs,
        "p50_us": float(np.percentile(took, 50)),
        "p95_us": float(np.percentile(took, 95)),
    }


def _set_level(level: str) -> dict[str, Any]:
    if level.upper() not in LEVELS:
        raise UsageError(f"log level {level!r} is unknown", hint=f"one of {', '.join(LEVELS)}")
    logging.getLogger("edge_agent").setLevel(level.upper())
    return {"level": level.upper()}
