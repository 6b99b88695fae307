"""Drift over time: each window's distance, as columns that the plot takes as they are."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift import records
from cloud_hub.drift.basis import Basis, decode_basis
from cloud_hub.drift.signed import Bank
from cloud_hub.store.tables import DriftMonitor, Release, WindowRow
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import SketchRef, decode_manifest
from fleet.protocol.sketch import decode_sketch, distance, mean
from fleet.protocol.telemetry import SketchData

log = logging.getLogger(__name__)
POINTS = 240  # windows per model
RECENT = 5000  # windows of a model among which they are looked for
Point = tuple[float, float, float]  # when a window ended, its distance, and the margin
MIN_COUNT = 10  # inputs; the distance of a smaller window says little


def drift_plots(hub: Hub) -> list[dict[str, Any]]:
    """Per model and release: `at` (Unix seconds), `distance` and `margin` (roots of squared MMD), in order of time.

    Each window's distance is from its device's own baseline on that release, and the margin how far from it is far; of
    a device without a baseline both are from the training fit.
    """
    with hub.reading() as session:
        sources = _sketches(session)
        found = {
            (model, release): rows
            for model, ref in sources.items()
            for release, rows in _by_release(_windows(session, model, ref.sketch_id)).items()
        }
        own = {key: _baselines(session, *key, sources[key[0]].sketch_id, rows) for key, rows in found.items()}
    references: dict[str, SketchData] = {}
    plots = []
    for (model, release), rows in found.items():
        points = []
        for row in rows:
            point = _from_baseline(row, *own[model, release]) or _from_training(hub, row, sources[model], references)
            points += [point] if point is not None else []
        at, away_from, margin = (list(part) for part in zip(*points, strict=True)) if points else ([], [], [])
        plots.append({"model": model, "release": release, "at": at, "distance": away_from, "margin": margin})
    return plots


def _from_baseline(row: WindowRow, basis: Basis | None, banks: Mapping[str, Bank]) -> Point | None:
    bank = banks.get(row.device_id)
    if basis is None or bank is None or len(row.sketch) != 4 * len(basis.directions):
        return None
    away = mean(_sketch(row)) @ basis.directions - bank.mean[0]
    return row.ended_at, float(np.linalg.norm(away)), float(bank.far[0])


def _from_training(hub: Hub, row: WindowRow, ref: SketchRef, references: dict[str, SketchData]) -> Point | None:
    """From what the newest release was trained on, read once and kept in `references`."""
    key = ref.reference.sha256
    if key not in references:
        references[key] = decode_sketch(hub.objects.get(f"blobs/{key}").data)
    try:
        squared = distance(references[key], _sketch(row))
    except MalformedError as error:  # one device's window must not hide every model's plot
        log.warning("a window of %s on %s is not in the plot: %s", row.model, row.device_id, error)
        return None
    return row.ended_at, math.sqrt(max(squared, 0.0)), math.sqrt(max(ref.margin, 0.0))


def _by_release(rows: Sequence[WindowRow]) -> dict[int, list[WindowRow]]:
    found: dict[int, list[WindowRow]] = {}
    for row in sorted(rows, key=lambda row: -row.release):
        found.setdefault(row.release, []).append(row)
    return found


def _baselines(
    session: Session, model: str, release: int, sketch_id: str, rows: Sequence[WindowRow]
) -> tuple[Basis | None, dict[str, Bank]]:
    """The coordinates of a release's streams, and the baselines of the windows' devices."""
    monitor = session.get(DriftMonitor, (model, release))
    if monitor is None or not monitor.basis or monitor.sketch_id != sketch_id:
        return None, {}
    streams = records.load(session, model, release, {row.device_id for row in rows}).values()
    banks = {s.name: s.bank for s in streams if s.kind == "device" and s.bank is not None}
    return decode_basis(monitor.basis), banks


def _sketch(row: WindowRow) -> SketchData:
    return SketchData(sketch_id=row.sketch_id, count=row.sketch_count, sums=row.sketch)


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


def _windows(session: Session, model: str, sketch_id: str) -> list[WindowRow]:
    """The last windows with a sketch, oldest first."""
    recent = select(WindowRow.id).where(WindowRow.model == model).order_by(col(WindowRow.id).desc()).offset(RECENT)
    first = session.exec(recent.limit(1)).first() or 0
    rows = session.exec(
        select(WindowRow)
        .where(col(WindowRow.id) >= first)
        .where(WindowRow.model == model, WindowRow.sketch_id == sketch_id, WindowRow.sketch_count >= MIN_COUNT)
        .order_by(col(WindowRow.id).desc())
        .limit(POINTS)
    )
    return sorted(rows, key=lambda row: row.ended_at)
