"""The table of verdicts in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.protocol.manifest import Manifest

if TYPE_CHECKING:
    from rich.table import Table


def table(manifest: Manifest) -> Table:
    """One line per variant; the second column is the metric's name."""
    from rich.table import Table

    metric = manifest.variants[0].verdict.metric
    columns = ("variant", metric, "95 %", "drop", "agreement", "bytes", "p50 µs", "× fp32", "load ms", "memory MB")
    shown = Table(*columns, box=None, pad_edge=False)
    for variant in manifest.variants:
        v = variant.verdict
        shown.add_row(
            variant.name, f"{v.value:.3f}", f"{v.interval[0]:.3g}–{v.interval[1]:.3g}", f"{v.drop_points:.2f}",
            f"{v.agreement:.3f}", str(v.size_bytes), f"{v.latency_us_p50:.0f}", f"{v.latency_ratio:.2f}",
            f"{v.load_ms:.1f}", f"{v.peak_memory_bytes / 1e6:.1f}",
        )  # fmt: skip
    return shown
