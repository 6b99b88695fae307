"""A serving agent in one process: real engine, slots and spool; fakes for runtime and cloud."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from pathlib import Path
from typing import Any

from edge_agent.errors import UnreachableError
from edge_agent.serving.app import App
from edge_agent.serving.audit import Auditor
from edge_agent.serving.endpoint import Endpoint
from edge_agent.serving.metrics import Metrics
from edge_agent.serving.outcomes import Afterwards
from edge_agent.serving.policy import Policies
from edge_agent.serving.server import make_shared
from edge_agent.serving.slots import Slots
from edge_agent.serving.tracing import make_engine
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.comparisons import Comparisons
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.open_windows import OpenWindows
from edge_agent.telemetry.recorder import Recorder
from edge_agent.telemetry.report_log import ReportLog
from edge_agent.telemetry.request_metrics import RequestMetrics, show_audits, show_releases, show_spool
from edge_agent.telemetry.sampler import Sampler
from edge_agent.telemetry.samples import SampleStore
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.window_writer import WindowWriter
from fleet.protocol import oip
from fleet.protocol.channel import Channel, ModelEntry
from fleet.serving import hot_protocol
from fleet.tracing import OFF, Tracer
from tests.support.fake_runtime import FakeRuntime
from tests.support.models import answer


class FakeCloud:
    """Answers like the tiny classifier; `error` is raised instead when set. `asked` has (model, version)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []
        self.error: Exception | None = None
        self.version = 7
        self.outputs = lambda x: {"logits": answer(x)}
        self.parameters: dict[str, bool] = {}

    async def infer(self, model, version, request, timeout_s):
        self.asked.append((model, version))
        if self.error is not None:
            raise self.error
        await asyncio.sleep(0)
        x = request.inputs[0].array
        return oip.InferResponse(
            model_name=model,
            model_version=str(version or self.version),
            parameters=self.parameters,
            outputs=tuple(oip.TensorValue(*item) for item in self.outputs(x).items()),
        )

    def cut(self) -> None:
        self.error = UnreachableError("the hub is away")


class Agent:
    """Everything that answers requests. `now` is the wall clock of windows, `draws` the randomness."""

    def __init__(
        self,
        directory: Path,
        *,
        runtime: FakeRuntime | None = None,
        seed: int = 0,
        cloud: Any = None,
        tracer: Tracer = OFF,
    ) -> None:
        self.blobs = directory / "blobs"
        self.cloud = cloud or FakeCloud()
        self.runtime = runtime or FakeRuntime()
        self.slots = Slots(lambda _variant: self.runtime, before_swap=self.settle)
        self.policies = Policies()
        self.metrics = Metrics(self.settle)
        self.database = Database(directory / "spool.db")
        self.spool = Spool(self.database)
        self.ticks = itertools.count(1_000)
        self.now = 1_000_000.0
        rng = random.Random(seed).random
        self.samples = SampleStore(self.database)
        self.budget = Budget(self.database, lambda: self.now)
        self.reports = ReportLog(self.spool, lambda: self.now)
        self.sampler = Sampler(self.slots, self.policies, self.samples, self.spool, clock=lambda: self.now, rng=rng)
        windows = OpenWindows(self.slots, self.policies, clock=lambda: self.now, rng=rng)
        self.recorder = Recorder(
            self.slots,
            self.policies,
            windows,
            self.sampler,
            RequestMetrics(self.metrics),
            audit=lambda job: self.auditor.offer(job),
        )
        self.writer = WindowWriter(
            windows, self.sampler, self.spool, self.budget, clock=lambda: self.now, settle=self.settle
        )
        self.comparisons = Comparisons(self.slots, windows)
        self.auditor = Auditor(self.cloud, self.comparisons)
        show_releases(self.metrics, self.slots)
        show_spool(self.metrics, self.spool)
        show_audits(self.metrics, lambda: self.auditor.dropped)
        self.endpoint = Endpoint(self.cloud)
        self.engine = make_engine(self.slots, self.policies, self.endpoint, self.recorder, tracer, rng=rng)
        self.shared = make_shared(self.engine, tracer)
        self.app = App(self.engine, self.metrics, lambda: {"pid": os.getpid(), "models": self.slots.names()})

    def settle(self) -> None:
        """Bring in what the engine's observer, if it collects several requests, has not told yet."""
        observer = self.engine._observer
        if isinstance(observer, Afterwards):
            observer.tell()

    def follow(self, entry: ModelEntry, **fields) -> None:
        """Apply a channel with one model, `tiny`."""
        self.policies.apply(Channel(channel="stable", version=1, models={"tiny": entry}, **fields))

    @property
    def listener(self) -> dict[str, Any]:
        """The arguments with which `tests.support.server.serving` serves it."""
        return {"app": self.app, "http": hot_protocol(self.shared)}

    async def ask(self, x, version: str = "", **parameters):
        """One request to the engine."""
        request = oip.InferRequest(inputs=(oip.TensorValue("input", x),), parameters=parameters)
        return await self.engine.infer("tiny", version, request)

    @contextlib.asynccontextmanager
    async def auditing(self):
        """Run the audit workers for the length of the block and finish their queue."""
        task = asyncio.create_task(self.auditor.run())
        try:
            yield
            await self.auditor.drain()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
