"""What a command shows of a release: the table of verdicts, or JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from fleet.protocol.interface import UNWATCHED
from fleet.protocol.manifest import Manifest, Verdict

if TYPE_CHECKING:
    from rich.table import Table


COLUMNS: Final[Mapping[str, Callable[[Verdict], str]]] = {  # what each is called, and says of a verdict
    "95 %": lambda v: f"{v.interval[0]:.3g}–{v.interval[1]:.3g}",
    "drop": lambda v: f"{v.drop_points:.2f}",
    "agreement": lambda v: f"{v.agreement:.3f}",
    "bytes": lambda v: str(v.size_bytes),
    "p50 µs": lambda v: f"{v.latency_us_p50:.0f}",
    "× fp32": lambda v: f"{v.latency_ratio:.2f}",
    "load ms": lambda v: f"{v.load_ms:.1f}",
    "memory MB": lambda v: f"{v.peak_memory_bytes / 1e6:.1f}",
}


def table(manifest: Manifest) -> Table:
    """One line per variant; the second column is the metric's name."""
    from rich.table import Table

    shown = Table("variant", manifest.variants[0].verdict.metric, *COLUMNS, box=None, pad_edge=False)
    for variant in manifest.variants:
        verdict = variant.verdict
        shown.add_row(variant.name, f"{verdict.value:.3f}", *[cell(verdict) for cell in COLUMNS.values()])
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
    if manifest.sketch is None:
        console.print(UNWATCHED)


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
