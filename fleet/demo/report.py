"""The demo's report: one JSON file, one table. Every number in it was measured in this run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fleet.demo.driver import Tally, percentile
from fleet.protocol.messages import AgentReport


def requests_section(tallies: list[Tally]) -> dict[str, int]:
    """Requests over all applications that have ended, by who answered: those under way are on neither side."""
    return {
        "total": sum(t.served_by.total() + t.failed for t in tallies),
        "edge": sum(t.served_by["edge"] for t in tallies),
        "cloud": sum(t.served_by["cloud"] for t in tallies),
        "degraded": sum(t.degraded for t in tallies),
        "retried": sum(t.retried for t in tallies),
        "failed": sum(t.failed for t in tallies),
    }


def latency_section(tallies: list[Tally], raw_runtime_p50: float) -> dict[str, float]:
    """Microseconds: the bare runtime as the compiler measured it, and the agent's API as applications saw it."""
    latencies = [latency for tally in tallies for latency in tally.latencies_us]
    return {
        "raw_runtime_p50": round(raw_runtime_p50, 1),
        "local_http_p50": round(percentile(latencies, 0.50), 1),
        "local_http_p99": round(percentile(latencies, 0.99), 1),
    }


def byte_totals(infos: Sequence[AgentReport]) -> dict[str, int]:
    """Mean bytes per device, as the agents counted and reported them in their `info`."""
    devices = max(1, len(infos))
    return {
        "down_per_device": round(sum(info.bytes_down for info in infos) / devices),
        "up_per_device": round(sum(info.bytes_up for info in infos) / devices),
    }


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report file."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def show(report: dict[str, Any], broken: list[str], console: Console) -> None:
    """The summary, and what did not hold."""
    table = Table(title="What happened", show_header=False, title_justify="left")
    for name, text in _rows(report):
        table.add_row(name, text)
    console.print(table)
    for sentence in broken:
        console.print(f"[red]broken promise:[/red] {sentence}")
    if not broken:
        console.print("[green]every promise held[/green]")


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    accuracy, requests, latency = report["accuracy"], report["requests"], report["latency_us"]
    drift, over_time, size, kill = report["drift"], report["accuracy_over_time"], report["bytes"], report["kill"]
    rows = [
        ("accuracy (exam)", ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items())),
        (
            "requests",
            f"{requests['total']}: {requests['edge']} by the edge, {requests['cloud']} by the cloud, "
            f"{requests['failed']} failed",
        ),
        (
            "latency (µs)",
            f"bare runtime p50 {latency['raw_runtime_p50']:.0f}, "
            f"local HTTP p50 {latency['local_http_p50']:.0f}, p99 {latency['local_http_p99']:.0f}",
        ),
    ]
    for rollout in report["rollouts"]:
        words = f"{rollout['outcome']}: {rollout.get('reason', '')}".rstrip(": ")
        rows.append((f"rollout of release {rollout['release']}", words))
    rows += [
        (
            "drift alarms",
            f"{drift['alarms_before_shift']} before the shift, "
            f"one after {drift['alarm_after_requests']} shifted requests, "
            f"{drift['alarms_after_retrain']} after the retrain",
        ),
        (
            "edge / served accuracy",
            "; ".join(
                f"{key.replace('_', ' ')} {v['edge_only']:.3f} / {v['served']:.3f}" for key, v in over_time.items()
            ),
        ),
        ("bytes per device", f"{size['down_per_device']:,} down, {size['up_per_device']:,} up"),
        ("killed while", f"{' and '.join(kill['states'])}; recovered: {'yes' if kill['recovered'] else 'no'}"),
        ("seconds", f"{report['seconds']:.0f}"),
    ]
    return rows
