"""What a command shows of a release: the table of verdicts, or JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

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


def show(manifest: Manifest, left_out: Mapping[str, str], *, json: bool) -> None:
    """The release with its notes, and the targets that were left out; as one JSON document on request."""
    if json:
        print_json({"manifest": manifest, "left_out": left_out})
        return
    from rich.console import Console

    console = Console(soft_wrap=True)
    console.print(table(manifest))
    for variant in manifest.variants:
        for note in variant.verdict.notes:
            console.print(f"{variant.name}: {note}")
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}")


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
