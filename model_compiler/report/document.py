"""The result of a compilation, and the files that tell it: `report.json` and `report.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fleet.protocol.manifest import Manifest
from model_compiler.evaluate.judging import Judged
from model_compiler.report.page import page


@dataclass(frozen=True)
class CompileReport:
    """The result: the manifest with its detail, which `out` has as a blob (`fleet.protocol.manifest_detail`); each
    target that was left out with its reason, and the document of `report.json`."""

    out: Path
    manifest: Manifest
    left_out: dict[str, str]
    document: dict[str, Any]


def document_of(
    metric: str,
    manifest: Manifest,
    judged: Sequence[Judged],
    left_out: Mapping[str, str],
    refusals: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """The document of `report.json`: every variant that was measured, shipped or not, and why.

    Args:
        metric: what it is called.
        manifest: with the variants that are shipped.
        judged: all that were measured.
        left_out: why, by the target that was asked for.
        refusals: by variant what each runtime that refused it said.
    """
    runtimes = {variant.name: variant.runtimes for variant in manifest.variants}
    variants = {}
    for item in judged:
        variants[item.name] = {
            **_measured(item),
            "shipped": item.name in runtimes,
            "runtimes": runtimes.get(item.name, ()),
            "refused": refusals.get(item.name, {}),
        }
    document = {
        "metric": metric,
        "labels": manifest.labels,
        "gate": manifest.gate,
        "variants": variants,
        "left_out": left_out,
        "lineage": manifest.lineage,
    }
    built: dict[str, Any] = msgspec.to_builtins(document)
    return built


def _measured(item: Judged) -> dict[str, Any]:
    return {
        "placement": item.ran.artifact.placement,
        "verdict": item.verdict,
        "deferral": item.deferral,
        "recall": {str(label): value for label, value in item.recalls.items()},
        "broken": list(item.broken),
    }


def files(document: Mapping[str, Any]) -> dict[str, bytes]:
    """The reports of a release directory by their file's name: the document with sorted keys, and as a page."""
    readable = msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"
    return {"report.json": readable, "report.html": page(document).encode()}
