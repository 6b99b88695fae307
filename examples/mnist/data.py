"""MNIST's 28 × 28 digits from a folder of its own: `EDGELOOP_DATA/mnist`.

The folder holds `train_60000.npz` (`x` (60000, 28, 28) uint8, `y`) and the two official test files,
`t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz`. Licence of the data: CC BY-SA 3.0 (LeCun, Cortes).
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

Part = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def folder() -> Path:
    """Return the folder of the files.

    Raises:
        FileNotFoundError: it has none; the message says what to do.
    """
    path = Path(os.environ.get("EDGELOOP_DATA", "")) / "mnist"
    if not (path / "train_60000.npz").is_file():
        raise FileNotFoundError(f"{path}: no train_60000.npz; set EDGELOOP_DATA to the folder that holds mnist/")
    return path


def splits(train: int = 12_000, seed: int = 0) -> dict[str, Part]:
    """`train`, `calibration` (500), `validation` (5,000) and `exam` (the other 5,000 of the official test set)."""
    with np.load(folder() / "train_60000.npz", allow_pickle=False) as archive:
        x, y = archive["x"], archive["y"]
    order = np.random.default_rng(seed).permutation(len(x))
    test_x = np.frombuffer(gzip.decompress((folder() / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    test_y = np.frombuffer(gzip.decompress((folder() / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    test_x = test_x.reshape(-1, 28, 28)
    return {
        "train": _part(x[order[:train]], y[order[:train]]),
        "calibration": _part(x[order[train : train + 500]], y[order[train : train + 500]]),
        "validation": _part(test_x[:5000], test_y[:5000]),
        "exam": _part(test_x[5000:], test_y[5000:]),
    }


def _part(x: npt.NDArray[np.uint8], y: npt.NDArray[np.integer]) -> Part:
    """(n, 1, 28, 28) in [0, 1]."""
    return (x[:, None] / np.float32(255)).astype(np.float32), y.astype(np.int64)
