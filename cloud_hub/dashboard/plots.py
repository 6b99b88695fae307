"""Drift over time: each window's distance, as columns that the plot takes as they are."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift.detector import Baseline
from cloud_hub.store.tables import DriftMonitor, Release, WindowRow
from fleet.protocol.manifest import SketchRef, decode_manifest
from fleet.protocol.messages import SketchData
from fleet.protocol.sketch import decode_sketch, distance

POINTS = 240  # windows per model
MIN_COUNT = 10  # inputs; the distance of a smaller window says little


def drift_plots(hub: Hub) -> list[dict[str, Any]]:
    """Per model: `at` (Unix seconds), `distance` (squared MMD) and `margin`, in order of time.

    The distance is from the deployed baseline once it is frozen, before that from the training fit.
    """
    with hub.reading() as session:
        sources = _sketches(session)
        found = {model: _windows(session, model, ref.sketch_id) for model, ref in sources.items()}
        baselines = {monitor.model: baseline_of(monitor) for monitor in session.exec(select(DriftMonitor))}
    plots = []
    for model, ref in sources.items():
        baseline = baselines.get(model)
        if baseline is not None and baseline.sketch.sketch_id == ref.sketch_id:
            reference, margin = baseline.sketch, baseline.margin
        else:
            reference, margin = decode_sketch(hub.objects.get(f"blobs/{ref.reference.sha256}").data), ref.margin
        points = [(at, distance(reference, window)) for at, window in found[model]]
        plots.append(
            {
                "model": model,
                "at": [at for at, _ in points],
                "distance": [value for _, value in points],
                "margin": [margin] * len(points),
            }
        )
    return plots


def baseline_of(monitor: DriftMonitor) -> Baseline | None:
    """The frozen baseline in the monitor's document, or None while there is none."""
    document = monitor.document.get("watch", {}).get("baseline")
    return None if document is None else msgspec.convert(document, Baseline)


def _sketches(session: Session) -> dict[str, SketchRef]:
    """Each model's newest published release that has a sketch."""
    newest = (
        select(Release).where(Release.status == "published").order_by(col(Release.model), col(Release.number).desc())
    )
    found: dict[str, SketchRef] = {}
    for release in session.exec(newest):
        if release.model not in found:
            sketch = decode_manifest(release.manifest).sketch
            if sketch is not None:
                found[release.model] = sketch
    return found


def _windows(session: Session, model: str, sketch_id: str) -> list[tuple[float, SketchData]]:
    """The last windows with a sketch, oldest first."""
    rows = session.exec(
        select(WindowRow)
        .where(WindowRow.model == model, WindowRow.sketch_id == sketch_id, WindowRow.sketch_count >= MIN_COUNT)
        .order_by(col(WindowRow.ended_at).desc())
        .limit(POINTS)
    )
    windows = [
        (row.ended_at, SketchData(sketch_id=row.sketch_id, count=row.sketch_count, sums=row.sketch)) for row in rows
    ]
    return windows[::-1]
