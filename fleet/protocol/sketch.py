"""Mergeable drift sketches: sums of random Fourier features of a fixed linear embedding.

An encoder maps an input x to phi(x) in R^features with |phi(x)| = 1 exactly, such that
phi(x)·phi(y) estimates a Gaussian kernel between whitened principal components of x and y. A sketch
is the sum of phi over many inputs and their count: kilobytes, whatever the traffic, merged by
addition. The distance between two sketches estimates the squared maximum mean discrepancy, without
raw data. Sketches are comparable only within one `sketch_id`; a model name keeps its encoder for
ever, so that a new release changes nothing in what is compared. Text is read as the numbers of `texts`.

Sources: Rahimi & Recht, "Random Features for Large-Scale Kernel Machines", NIPS 2007; Gretton et
al., "A Kernel Two-Sample Test", JMLR 13, 2012 (unbiased estimate, median heuristic).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.drift_encoder import (
    Encoder,
    Floats,
    Singles,
    _check_encoder,
    _frequencies,
    flattened,
    sketch_id,
)
from fleet.protocol.errors import MalformedError
from fleet.protocol.telemetry import SketchData

SKETCH_LIMIT = 64 << 10  # bytes of a reference blob
OUTLYING = 4.0  # two standard deviations


class Sketcher:
    """Sums up inputs; not thread-safe. Rows with NaN or infinity are counted in `skipped` only, unless the encoder
    reads them (`drift_encoder.GAPS`)."""

    def __init__(self, encoder: Encoder) -> None:
        _check_encoder(encoder)
        self.encoder = encoder
        self.sketch_id = sketch_id(encoder)
        self._mean = np.frombuffer(encoder.mean, "<f4")
        projection = np.frombuffer(encoder.projection, "<f4").reshape(-1, encoder.dims)
        # One product instead of two: the frequencies act on the embedding, which is linear.
        self._frequencies = projection @ _frequencies(encoder)
        self._scale = math.sqrt(2.0 / encoder.features)
        self.reset()

    def reset(self) -> None:
        """Start an empty window."""
        self.count = 0
        self.skipped = 0
        self._sums = np.zeros(self.encoder.features, np.float64)

    def features(self, x: npt.NDArray[Any]) -> Singles:
        """phi of every row: (n, …) → (n, features), each of length 1.

        Raises:
            MalformedError: rows of another size than the encoder's.
        """
        flat = flattened(self.encoder, x)
        angles = (flat - self._mean) @ self._frequencies
        result: Singles = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * np.float32(self._scale)
        return result

    def add(self, x: npt.NDArray[Any]) -> None:
        """Add examples: (n, …) numbers or texts."""
        with np.errstate(invalid="ignore", over="ignore"):
            phi = self.features(x)
        good = np.isfinite(phi).all(axis=1)
        used = int(good.sum())
        self.skipped += len(phi) - used
        self.count += used
        self._sums += (phi if used == len(phi) else phi[good]).sum(axis=0, dtype=np.float64)

    def data(self) -> SketchData:
        """The window's sketch so far."""
        return SketchData(sketch_id=self.sketch_id, count=self.count, sums=self._sums.astype("<f4").tobytes())


def outlying(encoder: Encoder, x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Mark the examples that lie far from the training data.

    Args:
        encoder: its whitened coordinates have a mean square of 1 on that data; over `OUTLYING` an example lies far.
        x: (n, …) inputs.

    Returns:
        (n,); False for NaN, unless the encoder reads it.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        flat = flattened(encoder, x) - np.frombuffer(encoder.mean, "<f4")
        place = flat @ np.frombuffer(encoder.projection, "<f4").reshape(-1, encoder.dims)
        found: npt.NDArray[np.bool_] = np.mean(place.astype(np.float64) ** 2, axis=1) > OUTLYING
    return found


def features_of_embedded(encoder: Encoder, embedded: npt.NDArray[Any]) -> Singles:
    """phi of points of the embedding: (n, dims) → (n, features), each of length 1."""
    angles = np.asarray(embedded, np.float32) @ _frequencies(encoder)
    result: Singles = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return result * np.float32(math.sqrt(2.0 / encoder.features))


def sketch(encoder: Encoder, x: npt.NDArray[Any]) -> SketchData:
    """The sketch of a whole data set: (n, …) numbers or texts."""
    sketcher = Sketcher(encoder)
    for start in range(0, len(x), 1024):
        sketcher.add(x[start : start + 1024])
    return sketcher.data()


def encode_sketch(data: SketchData) -> bytes:
    """The bytes of a training-fit reference blob."""
    return encode_msgpack(data)


def decode_sketch(data: bytes) -> SketchData:
    """Decode and check a reference blob; raises TooLargeError or MalformedError."""
    decoded = decode_msgpack(data, SketchData, limit=SKETCH_LIMIT, subject="sketch")
    check_sketch(decoded)
    return decoded


def check_sketch(data: SketchData) -> None:
    """Raise MalformedError for sums that no encoder can have made of `count` inputs."""
    _sums(data)


def merge(a: SketchData, b: SketchData) -> SketchData:
    """The sketch of both; raises MalformedError when their `sketch_id` differs."""
    _check_pair(a, b)
    sums = _sums(a) + _sums(b)
    return SketchData(sketch_id=a.sketch_id, count=a.count + b.count, sums=sums.astype("<f4").tobytes())


def mean(data: SketchData) -> Floats:
    """The mean of phi: (features,); raises MalformedError for an empty sketch."""
    if data.count < 1:
        raise MalformedError("an empty sketch has no mean", subject="sketch")
    return _sums(data) / data.count


def distance(a: SketchData, b: SketchData) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy; about 0, also below, for equal distributions.

    |sum phi|² holds `count` terms |phi(x)|² = 1 that compare an input with itself; without them the
    finite counts add nothing to the distance, so windows of different size are comparable.

    Raises:
        MalformedError: the sketches are not comparable, or one holds fewer than two inputs.
    """
    _check_pair(a, b)
    if a.count < 2 or b.count < 2:
        raise MalformedError(f"a distance needs two inputs on each side, not {a.count} and {b.count}", subject="sketch")
    left, right = _sums(a), _sums(b)
    within_a = (float(left @ left) - a.count) / (a.count * (a.count - 1))
    within_b = (float(right @ right) - b.count) / (b.count * (b.count - 1))
    return within_a + within_b - 2.0 * float(left @ right) / (a.count * b.count)


def fit_margin(
    encoder: Encoder,
    reference: SketchData,
    held_out: npt.NDArray[Any],
    *,
    window: int = 200,
    draws: int = 200,
    quantile: float = 0.95,
    seed: int = 0,
) -> float:
    """Return how far data of the same origin lies from `reference`: a quantile over windows of held-out inputs.

    Args:
        held_out: (n, …) inputs that neither the encoder nor the reference saw.
        window: inputs per window, drawn with replacement.

    Returns:
        The margin, at least 0, in units of `distance`.
    """
    phi = Sketcher(encoder).features(held_out).astype(np.float64)
    random = np.random.default_rng(seed)
    distances = []
    for _ in range(draws):
        sums = phi[random.integers(0, len(phi), window)].sum(axis=0)
        data = SketchData(sketch_id=reference.sketch_id, count=window, sums=sums.astype("<f4").tobytes())
        distances.append(distance(reference, data))
    return max(0.0, float(np.quantile(distances, quantile)))


def _check_pair(a: SketchData, b: SketchData) -> None:
    if a.sketch_id != b.sketch_id or len(a.sums) != len(b.sums):
        raise MalformedError(
            f"sketches {a.sketch_id[:12]} and {b.sketch_id[:12]} were made by different encoders", subject="sketch"
        )


def _sums(data: SketchData) -> Floats:
    if data.count < 0 or len(data.sums) % 8 or not data.sums:
        raise MalformedError(f"a sketch with {data.count} inputs and {len(data.sums)} bytes", subject="sketch")
    sums = np.frombuffer(data.sums, "<f4").astype(np.float64)
    # |sum phi| ≤ count, whatever the inputs: what lies beyond was not made by an encoder.
    if not np.isfinite(sums).all() or float(sums @ sums) > (data.count * 1.001) ** 2 + 1e-6:
        raise MalformedError("a sketch's sums exceed its count", subject="sketch")
    return sums
