"""The coordinates in which a model's windows are watched: few numbers in place of hundreds of features. Pure.

Most are the principal directions of what windows differ in, the rest random ones across them, so that a move that
leaves their span is seen as well. They are found once per model and baseline, from windows of many devices, each with
the same weight, and are the same for all its streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

DIMS = 40
ACROSS = 8  # of them random
FLOOR = 0.02  # of the largest variance
POWER = 0.5


@dataclass(frozen=True)
class Basis:
    """Orthonormal `directions` (features, K), K at most `DIMS`, and the `weights` (K,) of the coordinates.

    A coordinate weighs the more the less windows usually differ in it: between a distance of means, which has no
    weights and looks where the noise is, and Hotelling's statistic, which trusts every small variance.
    """

    directions: Singles
    weights: Floats


def fit_basis(windows: Floats, devices: npt.NDArray[np.int64], seed: int = 0) -> Basis:
    """The basis of some windows.

    Args:
        windows: (n, features) mean features.
        devices: (n,) which device each is of; what devices differ in among themselves does not count.
    """
    centred = np.array(windows, np.float64)
    for device in np.unique(devices):
        rows = devices == device
        centred[rows] -= centred[rows].mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)  # no window outweighs another
    features = centred.shape[1]
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    kept = min(DIMS - ACROSS, features, int((spread > 1e-6 * max(spread[0], 1e-12)).sum()))
    top = directions[:kept]
    across = np.random.default_rng(seed).normal(size=(min(DIMS, features) - kept, features))
    across -= across @ top.T @ top
    basis, _ = np.linalg.qr(np.concatenate([top, across]).T)
    variance = ((centred @ basis) ** 2).mean(axis=0)
    weights = (variance / max(float(variance.max()), 1e-24) + FLOOR) ** -POWER
    return Basis(directions=basis.astype(np.float32), weights=weights)
