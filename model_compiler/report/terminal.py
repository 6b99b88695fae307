"""Shows a release in the terminal: the table of verdicts, or JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from fleet.protocol.interface import UNWATCHED
from fleet.protocol.manifest import Manifest, Verdict
from model_compiler.inputs.release_folder import encoder_of

if TYPE_CHECKING:
    from rich.table import Table


WIDTH = 200  # of a table that goes to a file or another program
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


def show(manifest: Manifest, left_out: Mapping[str, str], *, json: bool, release: Path) -> None:
    """Show the release in the folder `release` with its notes, and the targets that were left out; as one JSON
    document on request."""
    if json:
        print_json({"manifest": manifest, "left_out": left_out})
        return
    from rich.console import Console

    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table(manifest))
    for variant in manifest.variants:
        for note in variant.verdict.notes:
            console.print(f"{variant.name}: {note}")
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}")
    for line in (*_watched(manifest, release), *own_auditors(manifest)):
        console.print(line)


def _watched(manifest: Manifest, release: Path) -> list[str]:
    """Return a line on the input that a sketch watches, where there is a choice, or that none does."""
    if manifest.sketch is None:
        return [UNWATCHED]
    watched = encoder_of(release).tensor or manifest.inputs[0].name
    others = ", ".join(tensor.name for tensor in manifest.inputs if tensor.name != watched)
    if not others:
        return []
    return [
        f"drift: whether inputs move is watched on {watched}; of {others} only whether they are broken (NaN, stuck, "
        "beyond the training data, another unit). A model's first release chooses: --watch NAME"
    ]


def own_auditors(manifest: Manifest) -> list[str]:
    """Return a warning for each cloud variant that is the very file of an edge variant, or the float model of one."""
    edge = {variant.blob.sha256: variant.name for variant in manifest.variants if variant.placement == "edge"}
    same = {
        variant.name: f"is the same file as {edge[variant.blob.sha256]}"
        if variant.blob.sha256 in edge
        else "answers as the float model of the files for devices does"
        for variant in manifest.variants
        if variant.placement == "cloud" and (variant.blob.sha256 in edge or variant.twin is True)
    }
    return [
        f"{name} {why}: as an auditor it agrees with this release whatever is true, and calls a better release "
        "harmful. Audit with a better model, or use --evidence labels"
        for name, why in same.items()
    ]


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
