"""The series of `/metrics` about requests, releases, audits, the machine and what waits for the hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edge_agent.host.vitals import VitalSigns
from edge_agent.serving.metrics import Metrics
from edge_agent.serving.slots import Slots
from edge_agent.telemetry.spool import Spool


class RequestMetrics:
    """The counters of requests, registered once; each attribute takes its label values in the order given here."""

    def __init__(self, metrics: Metrics) -> None:
        self.observe = metrics.histogram("edge_inference_duration_seconds", "Whole request.", ("model", "served_by"))
        self.requests = metrics.counter(
            "edge_inference_requests_total", "Answered and failed requests.", ("model", "served_by", "degraded")
        )
        self.fallbacks = metrics.counter(
            "edge_fallback_requests_total", "Requests that did not end as a plain local answer.", ("reason",)
        )
        self.refusals = metrics.counter(
            "edge_refused_requests_total",
            "Requests that a release does not take, among those of nobody.",
            ("model", "reason"),
        )


def show_releases(metrics: Metrics, slots: Slots) -> None:
    """Let `metrics` show the release that each model serves."""

    def rows() -> list[tuple[tuple[str, ...], float]]:
        found: list[tuple[tuple[str, ...], float]] = []
        for name in slots.names():
            slot = slots.slot(name)
            if slot is not None and slot.active is not None:
                release = slot.active.release
                found.append(((name, str(release.number), release.variant.name), 1.0))
        return found

    metrics.gauge("edge_model_info", "Active release.", ("model", "release", "variant"), rows)


def show_spool(metrics: Metrics, spool: Spool) -> None:
    """Let `metrics` show how many records wait for the hub, and how many a full spool has given up."""
    metrics.gauge("edge_outbox_messages", "Records waiting for a receipt.", (), lambda: [((), len(spool))])
    metrics.gauge("edge_outbox_lost", "Records a full spool gave up.", (), lambda: [((), spool.lost)])


def show_audits(metrics: Metrics, dropped: Callable[[], int]) -> None:
    """Let `metrics` show how many audits have no outcome, as `dropped` counts them."""
    metrics.gauge("edge_audits_dropped", "Audits without an outcome.", (), lambda: [((), dropped())])


def show_vitals(metrics: Metrics, signs: VitalSigns) -> None:
    """Let `metrics` show the machine's vital signs; a value that the machine does not tell has no line.

    Args:
        metrics: takes the series; none of the names may be taken.
        signs: read at each look at the metrics.
    """
    shown = (
        ("edge_machine_cpu_share", "Busy share of all cores, in [0, 1].", "cpu"),
        ("edge_machine_memory_bytes", "Memory in all.", "memory"),
        ("edge_machine_memory_free_bytes", "Memory that programs can have.", "memory_free"),
        ("edge_machine_disk_bytes", "The disk of the agent's directory, in all.", "disk"),
        ("edge_machine_disk_free_bytes", "The disk of the agent's directory, free.", "disk_free"),
        ("edge_machine_celsius", "The hottest sensor, in degrees Celsius.", "celsius"),
    )
    for name, text, field in shown:
        metrics.gauge(name, text, (), partial(_sign, signs, field))


def _sign(signs: VitalSigns, field: str) -> list[tuple[tuple[str, ...], float]]:
    value: float | None = getattr(signs.read(), field)
    return [] if value is None else [((), value)]
