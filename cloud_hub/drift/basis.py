"""The coordinates in which a model's windows are watched: few numbers in place of hundreds of features. Pure.

Most are the principal directions of what windows differ in, the rest random ones across them, so that a move that
leaves their span is seen as well. They follow from the model's encoder alone: its embedding is whitened, so points of
a normal distribution stand for its inputs, whatever device comes first. Where the encoder cannot be read, they are
found from windows of many devices, each with the same weight. All streams of a model share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from fleet.protocol.drift_encoder import Encoder
from fleet.protocol.sketch import features_of_embedded

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

DIMS = 40
ACROSS = 8  # of them random
POINTS = 2000  # of the embedding, that stand for inputs
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


def basis_of_encoder(encoder: Encoder) -> Basis:
    """The basis of an encoder's own features, the same whenever it is made."""
    points = np.random.default_rng(encoder.seed).standard_normal((POINTS, encoder.dims))
    return fit_basis(features_of_embedded(encoder, points).astype(np.float64), np.zeros(POINTS, np.int64))


def fit_basis(windows: Floats, devices: npt.NDArray[np.int64], seed: int = 0) -> Basis:
    """The basis of some windows.

    Args:
        windows: (n, features) mean features.
        devices: (n,) which device each is of; what devices differ in among themselves does not count.
    """
    centred = np.array(windows, np.float64)
    overall = centred.mean(axis=0)
    for device in np.unique(devices):
        rows = devices == device
        centred[rows] -= centred[rows].mean(axis=0) if rows.sum() > 1 else overall
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)  # no window outweighs another
    features = centred.shape[1]
    # The mean itself is a direction: what is unlike all that was seen loses along it, wherever else it goes.
    centre = overall / max(float(np.linalg.norm(overall)), 1e-12)
    _, spread, directions = np.linalg.svd(centred - (centred @ centre)[:, None] * centre, full_matrices=False)
    kept = min(DIMS - ACROSS - 1, features - 1, int((spread > 1e-6 * max(spread[0], 1e-12)).sum()))
    top = np.concatenate([centre[None], directions[:kept]])
    across = np.random.default_rng(seed).normal(size=(min(DIMS, features) - kept - 1, features))
    across -= across @ top.T @ top
    basis, _ = np.linalg.qr(np.concatenate([top, across]).T)
    variance = ((centred @ basis) ** 2).mean(axis=0)
    weights = (variance / max(float(variance.max()), 1e-24) + FLOOR) ** -POWER
    return Basis(directions=basis.astype(np.float32), weights=weights)


def encode_basis(basis: Basis) -> bytes:
    """Half-precision bytes."""
    k = len(basis.weights)
    return msgspec.msgpack.encode((k, basis.directions.astype("<f2").tobytes(), basis.weights.astype("<f4").tobytes()))


def decode_basis(data: bytes) -> Basis:
    """The basis of some bytes of `encode_basis`."""
    k, directions, weights = msgspec.msgpack.decode(data, type=tuple[int, bytes, bytes])
    found = np.frombuffer(directions, "<f2").astype(np.float32).reshape(-1, k)
    return Basis(directions=found, weights=np.frombuffer(weights, "<f4").astype(np.float64))
