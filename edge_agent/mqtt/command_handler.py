"""Carries out verified commands; the answers go into the spool as results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from edge_agent.errors import AgentError, NotFoundError, UsageError
from edge_agent.serving.slots import Slots
from edge_agent.telemetry.report_log import ReportLog
from fleet.protocol.messages import Benchmark, Command, CommandResult
from fleet.tracing import OFF, Tracer

if TYPE_CHECKING:
    from edge_agent.runtimes.measuring import Case

log = logging.getLogger(__name__)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Actions:
    """Carries out commands one after the other, off the path of MQTT messages."""

    def __init__(
        self,
        reports: ReportLog,
        want_samples: Callable[[dict[str, Any]], dict[str, Any]],
        slots: Slots,
        status: Callable[[], dict[str, Any]],
        measure: Callable[[Case], Awaitable[Benchmark]] | None = None,
        logs: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        *,
        tracer: Tracer = OFF,
    ) -> None:
        """Answer into `reports`.

        Args:
            reports: takes the answers.
            want_samples: draws the samples that a command's arguments ask for (`Sampler.want`).
            slots: what serves, and so can be measured.
            status: gives the `/status` document.
            measure: measures a case, by default in a child process; what that needs is imported when it is asked.
            logs: answers with the latest log lines; None where nobody keeps them.
            tracer: makes a span of each command, in the trace that is current when it is handed over.
        """
        self._reports = reports
        self._want_samples = want_samples
        self._slots = slots
        self._status = status
        self._measure = measure
        self._logs = logs
        self._tracer = tracer
        self._measuring = asyncio.Lock()  # two measurements at once would measure each other
        self._queue: asyncio.Queue[tuple[Command, dict[str, str]]] = asyncio.Queue(64)

    def handle(self, command: Command) -> None:
        """Queue a command; one too many is answered at once with a failure."""
        try:
            self._queue.put_nowait((command, self._tracer.carried()))
        except asyncio.QueueFull:
            self._reports.result(CommandResult(id=command.id, ok=False, detail="too many commands are waiting"))

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            command, carried = await self._queue.get()
            with self._tracer.following(carried):
                await self._carry_out(command)

    async def _carry_out(self, command: Command) -> None:
        span = self._tracer.begin(f"command {command.kind}", "consumer")
        span.put(command=command.id)
        with span.inside():
            result = await self._answer(command)
            self._reports.result(result)
        if not result.ok:
            span.fail(result.detail)
        span.end()

    async def measure(self, model: str, rounds: int) -> None:
        """Measure a served model without being told by a command; figures or failure go into the spool."""
        try:
            figures = await self._benchmark(model, rounds)
        except AgentError as error:
            log.warning("model %s could not be measured: %s", model, error)
            result = CommandResult(id="", ok=False, kind="benchmark", detail=f"{model}: {error}")
        else:
            result = CommandResult(id="", ok=True, kind="benchmark", detail="benchmark", data=figures)
        self._reports.result(result)

    async def _answer(self, command: Command) -> CommandResult:
        try:
            data = await self._do(command)
        except (AgentError, ValueError, RuntimeError, TypeError) as error:
            log.warning("command %s (%s) failed: %s", command.id, command.kind, error)
            return CommandResult(id=command.id, ok=False, kind=command.kind, detail=str(error))
        return CommandResult(id=command.id, ok=True, kind=command.kind, detail=command.kind, data=data)

    async def _do(self, command: Command) -> dict[str, Any]:
        if command.kind == "diagnose":
            return self._status()
        if command.kind == "logs" and self._logs is not None:
            return self._logs(command.args)
        if command.kind == "send-samples":
            return self._want_samples(command.args)
        if command.kind == "benchmark":
            from edge_agent.runtimes.measuring import ROUNDS

            rounds = int(command.args.get("rounds", ROUNDS))
            return await self._benchmark(str(command.args.get("model", "")), rounds)
        if command.kind == "set-log-level":
            return _set_level(str(command.args.get("level", "")))
        raise UsageError(f"command {command.kind!r} is unknown here", hint="update the agent")

    async def _benchmark(self, model: str, rounds: int) -> dict[str, Any]:
        """The active release as it is served: its variant, on its runtime, in a child process."""
        from edge_agent import bench

        with self._slots.lease(model) as served:
            if served is None:
                raise NotFoundError(f"model {model!r} is not served here", subject=model)
            release, runtime = served.release, served.runtime
        cases = bench.cases_of(
            release.manifest,
            release.blobs,
            model=model,
            release=release.number,
            variant=release.variant.name,
            rounds=rounds,
        )
        case = next((case for case in cases if case.runtime == runtime), cases[0])
        async with self._measuring:
            figures: dict[str, Any] = msgspec.to_builtins(await (self._measure or bench.in_child)(case))
        return figures


def _set_level(level: str) -> dict[str, Any]:
    if level.upper() not in LEVELS:
        raise UsageError(f"log level {level!r} is unknown", hint=f"one of {', '.join(LEVELS)}")
    logging.getLogger("edge_agent").setLevel(level.upper())
    return {"level": level.upper()}
