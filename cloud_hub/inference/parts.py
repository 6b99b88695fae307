"""The parts of inference in the cloud, put together once for an application."""

from __future__ import annotations

import resource

from prometheus_client import CollectorRegistry

from cloud_hub.context import Hub
from cloud_hub.identity.admission import Admission
from cloud_hub.inference.about import About
from cloud_hub.inference.async_runner import AsyncRunner
from cloud_hub.inference.endpoint import InferEndpoint
from cloud_hub.inference.loaded import Loaded
from cloud_hub.inference.metrics import Answers, Queues
from cloud_hub.inference.rpc import HubInference
from cloud_hub.inference.tracing import TracedEndpoint
from cloud_hub.store import access_version
from cloud_hub.store.fresh import Freshness
from fleet.serving import ByteBudget, Shared
from fleet.tracing import OFF, Tracer

CONNECTIONS = 8192  # at a time, where the process may open twice as many files


class Inference:
    """For one event loop; `shared` is for the listener's protocol class."""

    def __init__(self, hub: Hub, registry: CollectorRegistry, tracer: Tracer = OFF) -> None:
        def number() -> int | None:
            with hub.reading() as session:
                return access_version.read(session)

        settings = hub.config.inference
        self.freshness = Freshness(number)
        self.freshness.watch(hub.engine)
        self.admission = Admission(hub, self.freshness)
        self.loaded = Loaded(hub, self.freshness)
        self.about = About(hub, self.loaded)
        self.budget = ByteBudget(settings.in_flight)
        answers = Answers(registry)
        registry.register(Queues(self.queues))
        self.tracer, parts = tracer, (self.admission, self.loaded, self.budget, answers)
        if tracer.on:
            self.endpoint: InferEndpoint = TracedEndpoint(*parts, longest_s=settings.deadline_s, tracer=tracer)
        else:
            self.endpoint = InferEndpoint(*parts, longest_s=settings.deadline_s)
        uncounted = InferEndpoint(self.admission, self.loaded, self.budget, Answers(), longest_s=settings.deadline_s)
        self.later = AsyncRunner(hub, self.loaded, uncounted, self.budget, answers)
        self.rpc = HubInference(self.admission, self.loaded, self.about, self.endpoint, self.budget)
        self.rpc.tracer = tracer
        self.shared = Shared(self.endpoint, self.budget, connections())

    def queues(self) -> list[tuple[str, int, int, int]]:
        """Of each release in memory: model, number, requests that wait, batches that run in threads."""
        return [(s.model, s.number, s.batcher.waiting, s.batcher.running) for s in self.loaded.served()]

    def close(self) -> None:
        """Let the threads end."""
        self.loaded.close()
        self.freshness.close()
        self.tracer.close()


def connections() -> int:
    """Return how many connections there may be: half of the files that this process may open, at most `CONNECTIONS`."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(CONNECTIONS, soft // 2))
