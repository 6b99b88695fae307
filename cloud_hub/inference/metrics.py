"""The metrics of inference: the length of the queues, and the results of requests.

`edgeloop_hub_inference_waiting` is what to scale instances by: requests that no model has begun to run yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

ROUTE = "/v2/models/{model}/infer"
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


class Answers:
    """Counts answers by status, and the time of good ones from their first byte."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._answers = Counter(
            "edgeloop_hub_inference_answers_total", "Answers to inference requests", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "edgeloop_hub_inference_seconds",
            "Time from a request's first byte to its answer",
            buckets=BUCKETS,
            registry=registry,
        )
        self._by_status: dict[int, Any] = {}

    def counted(self, status: int, seconds: float | None) -> None:
        """One answer; `seconds` of a good one."""
        found = self._by_status.get(status)
        if found is None:
            found = self._by_status[status] = self._answers.labels(str(status))
        found.inc()
        if seconds is not None:
            self._seconds.observe(seconds)


class Queues(Collector):
    """Gauges by model and release: requests that wait, and batches that run in threads."""

    def __init__(self, read: Callable[[], list[tuple[str, int, int, int]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """The gauges as they are now."""
        waiting = GaugeMetricFamily(
            "edgeloop_hub_inference_waiting", "Requests that wait to be run", labels=["model", "release"]
        )
        running = GaugeMetricFamily(
            "edgeloop_hub_inference_running", "Batches that run in threads", labels=["model", "release"]
        )
        for model, release, queued, batches in self._read():
            waiting.add_metric([model, str(release)], queued)
            running.add_metric([model, str(release)], batches)
        yield from (waiting, running)
