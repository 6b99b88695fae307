"""Machine readings, most of them of machines that run well: the AI4I 2020 table, or rows of the same form.

With `EDGELOOP_DATA` set to a folder that holds `ai4i2020/ai4i2020.csv` these are real (S. Matzka, UCI dataset 601,
CC BY 4.0); else they are generated: the same five numbers, with failures where torque and wear are high together.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

NUMBERS = (
    "Air temperature [K]",
    "Process temperature [K]",
    "Rotational speed [rpm]",
    "Torque [Nm]",
    "Tool wear [min]",
)
MEANS = np.array([300.0, 310.0, 1540.0, 40.0, 108.0])
SPREADS = np.array([2.0, 1.5, 180.0, 10.0, 64.0])

Table = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def table(seed: int = 0) -> Table:
    """(n, 5) readings in their units, and 1 for a failure, (n,), in random order; no row twice."""
    path = Path(os.environ.get("EDGELOOP_DATA", "")) / "ai4i2020" / "ai4i2020.csv"
    x, y = _read(path) if path.is_file() else _generated(seed)
    _, first = np.unique(x, axis=0, return_index=True)
    order = np.random.default_rng(seed).permutation(first)
    return x[order], y[order]


def _read(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    x = np.array([[float(row[name]) for name in NUMBERS] for row in rows], np.float32)
    return x, np.array([int(row["Machine failure"]) for row in rows], np.int64)


def _generated(seed: int, count: int = 3000) -> Table:
    random = np.random.default_rng(seed)
    x = MEANS + SPREADS * random.normal(size=(count, len(NUMBERS)))
    x[:, 1] = x[:, 0] + 10 + 0.5 * random.normal(size=count)  # the process is ten kelvin warmer than the air
    y = random.random(count) < 0.035
    x[y, 3] += 25.0 * random.random(int(y.sum())) + 15.0
    x[y, 0] += 4.0 * random.normal(size=int(y.sum()))
    return x.astype(np.float32), y.astype(np.int64)
