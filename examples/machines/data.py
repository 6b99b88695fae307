"""The AI4I 2020 predictive maintenance table from a folder of its own: `EDGELOOP_DATA/ai4i2020`.

10,000 rows, 339 of them failures. Source: S. Matzka, UCI dataset 601, CC BY 4.0.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

Part = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
NUMBERS = (
    "Air temperature [K]",
    "Process temperature [K]",
    "Rotational speed [rpm]",
    "Torque [Nm]",
    "Tool wear [min]",
)
TYPES = ("L", "M", "H")


def splits(seed: int = 0) -> dict[str, Part]:
    """`train` (5,000), `calibration` (500) and `validation` (4,500): (n, 8) standardized features, 1 for a failure.

    Raises FileNotFoundError that says what to do.
    """
    path = Path(os.environ.get("EDGELOOP_DATA", "")) / "ai4i2020" / "ai4i2020.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; set EDGELOOP_DATA to the folder that holds ai4i2020/")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    x = np.array([[float(r[n]) for n in NUMBERS] + [float(r["Type"] == t) for t in TYPES] for r in rows], np.float32)
    y = np.array([int(r["Machine failure"]) for r in rows], np.int64)
    order = np.random.default_rng(seed).permutation(len(x))
    train = order[:5000]
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    parts = {"train": train, "calibration": order[5000:5500], "validation": order[5500:]}
    return {name: (x[rows_], y[rows_]) for name, rows_ in parts.items()}
