"""The handwritten digits that scikit-learn ships: 1,797 real scans of 8 × 8 pixels, split once and disjointly.

`python examples/digits/data.py --out DIR` writes train, calibration, validation, traffic and exam sets
as `.npz` files with `x` float32 (n, 1, 8, 8) in [0, 1] and `y` int64 (n,). The exam is never trained
on, labelled, or used for a threshold. With `--degrees 15,20` every image is turned by an angle drawn
from that range: a camera that slipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZES = {"train": 900, "calibration": 100, "validation": 100, "traffic": 350}  # the rest is the exam

Split = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]


def splits(seed: int = 0) -> Split:
    """Disjoint sets by name; the same seed gives the same split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(x))
    found: Split = {}
    start = 0
    for name, size in (*SIZES.items(), ("exam", len(x) - sum(SIZES.values()))):
        rows = order[start : start + size]
        found[name] = (x[rows], y[rows])
        start += size
    return found


def turned(x: npt.NDArray[np.float32], low: float, high: float, seed: int) -> npt.NDArray[np.float32]:
    """Each image of (n, 1, 8, 8) turned about its centre by an angle drawn from [low, high] degrees."""
    from scipy.ndimage import rotate

    random = np.random.default_rng(seed)
    images: list[Any] = [
        np.clip(rotate(image[0], random.uniform(low, high), reshape=False, order=1), 0.0, 1.0) for image in x
    ]
    return np.stack(images).astype(np.float32)[:, None]


def main() -> None:
    """Write the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--degrees", default="", help="turn every image by an angle in LOW,HIGH")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index, (name, (x, y)) in enumerate(splits(arguments.seed).items()):
        if arguments.degrees:
            low, high = (float(part) for part in arguments.degrees.split(","))
            x = turned(x, low, high, arguments.seed * 10 + index)
        np.savez(arguments.out / f"{name}.npz", x=x, y=y)


if __name__ == "__main__":
    main()
