"""Telemetry windows as the watch counts them: their mean in the basis's coordinates, and a time that can be true."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from cloud_hub.clock import lies_ahead
from cloud_hub.drift.basis import Basis, fit_basis
from cloud_hub.drift.watch import SeenWindow
from cloud_hub.store.tables import WindowRow
from fleet.protocol.errors import MalformedError
from fleet.protocol.sketch import mean
from fleet.protocol.telemetry import SketchData

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]
MOST_SLOT_S = 86_400.0


class Times(Struct, frozen=True, kw_only=True):
    """Between which moments (Unix seconds) a window of a device can have ended: after `earliest`, and not after now."""

    now: float
    earliest: Mapping[str, float]

    def of(self, row: WindowRow) -> float:
        """Return when a window ended: by the device's clock where that can be true, else the moment of its receipt."""
        if lies_ahead(row.ended_at, self.now) or not row.ended_at >= self.earliest.get(row.device_id, 0.0):
            return self.now
        return row.ended_at


def late(row: WindowRow, enrolled: float, anew: float) -> bool:
    """Tell whether a window is of the time before its device's baseline was begun anew (Unix seconds). One that
    ended before the device was enrolled has a wrong clock, and is of now."""
    return enrolled <= row.ended_at < anew


def basis_of(rows: Sequence[WindowRow]) -> Basis | None:
    """The basis of the first windows; None where none is readable."""
    if not rows:
        return None
    # Sketches of one encoder have one size: that of most.
    size, _ = Counter(len(row.sketch) for row in rows).most_common(1)[0]
    read = list(_means(rows, size))
    if len(read) < 2:
        return None
    names = {name: number for number, name in enumerate(sorted({row.device_id for row, _ in read}))}
    devices = np.array([names[row.device_id] for row, _ in read])
    return fit_basis(np.stack([features for _, features in read]), devices)


def seen_in(rows: Sequence[WindowRow], basis: Basis, times: Times) -> list[SeenWindow]:
    """Read windows in their order; one that cannot be read is left out, and logged."""
    read = list(_means(rows, 4 * len(basis.directions)))
    if not read:
        return []
    projected = np.stack([features for _, features in read]) @ basis.directions.astype(np.float64)
    return [
        SeenWindow(device=row.device_id, release=row.release, at=times.of(row), count=row.sketch_count, row=place)
        for (row, _), place in zip(read, projected, strict=True)
    ]


def slot_of(ends: Iterable[tuple[str, float, float]]) -> float | None:
    """Return the usual seconds from one window of a device to its next: the time over which devices are gathered.

    Args:
        ends: of windows in the order in which they came: the device, when the window began and when it ended (Unix
            seconds).

    Returns:
        The median over devices of each one's median, so that no device decides it; None where no window says it.
    """
    gaps: dict[str, list[float]] = {}
    lengths: dict[str, list[float]] = {}
    last: dict[str, float] = {}
    for device, started, ended in ends:
        for found, length in ((lengths, ended - started), (gaps, ended - last.get(device, ended))):
            if 0 < length < MOST_SLOT_S:
                found.setdefault(device, []).append(length)
        last[device] = ended
    usual = [float(np.median(some)) for some in {**lengths, **gaps}.values()]  # of one window there is the length alone
    return max(float(np.median(usual)), 1.0) if usual else None


def _means(rows: Sequence[WindowRow], size: int) -> Iterator[tuple[WindowRow, Floats]]:
    """Windows whose sketch has `size` bytes, with their mean features."""
    for row in rows:
        if len(row.sketch) != size:
            log.warning("a window of %s on %s is left out: its sketch has another size", row.model, row.device_id)
            continue
        data = SketchData(sketch_id=row.sketch_id, count=row.sketch_count, sums=row.sketch)
        try:
            features = mean(data)
        except MalformedError as error:  # one device's window must not end the watch over the others
            log.warning("a window of %s on %s is left out: %s", row.model, row.device_id, error)
            continue
        yield row, features
