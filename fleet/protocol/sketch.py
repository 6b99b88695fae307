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

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import SketchData
from fleet.protocol.texts import TEXT, text_numbers

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

ENCODER_LIMIT = 1 << 20  # bytes of an encoder blob
SKETCH_LIMIT = 64 << 10  # bytes of a reference blob
MAX_INPUTS = 4096  # wider inputs are averaged over neighbours first, so that the blob stays small
MAX_FIT_ROWS = 2000
MAX_FEATURES = 8192
MAX_DIMS = 60
OUTLYING = 4.0  # two standard deviations
SCHEMA = 1


class Encoder(Struct, frozen=True, kw_only=True):
    """The fixed encoder of a model name; its canonical bytes are a blob of the release.

    `tensor` is the input it reads, `inputs` the number of values in one example (`texts.NUMBERS` of text), `pool`
    how many neighbouring values are averaged into one. `mean` holds ceil(inputs / pool) float32 and
    `projection` a (ceil(inputs / pool), dims) float32 matrix, little-endian and row-major: mostly
    principal directions over their standard deviation. Frequencies follow from `seed`, `features` (even) and
    `bandwidth` (in units of the embedding).
    """

    schema: int = SCHEMA
    tensor: str = ""
    inputs: int
    pool: int = 1
    dims: int
    features: int
    seed: int
    bandwidth: float
    mean: bytes
    projection: bytes


def fit_encoder(
    x: npt.NDArray[Any], *, tensor: str = "", dims: int = 16, features: int = 512, seed: int = 0
) -> Encoder:
    """Fit an encoder to training inputs; the same arguments give the same encoder.

    Args:
        x: (n, …) numbers or texts, n ≥ 2; at most 2,000 evenly spaced rows are used.
        tensor: the name of the input tensor, part of the sketch's identity.
        dims: directions kept (fewer when the data has fewer), at most 60.
        features: even; 4 bytes each in every window.

    Raises:
        MalformedError: too few rows, values that are not finite, or a setting out of bounds.
    """
    rows = np.asarray(x)
    picked = np.linspace(0, len(rows) - 1, min(len(rows), MAX_FIT_ROWS)).astype(np.int64) if rows.ndim else np.empty(0)
    rows = _numbers(rows[picked]) if len(picked) else rows
    if rows.ndim < 2 or rows.shape[0] < 2:
        raise MalformedError(f"an encoder is fitted to (n, …) inputs with n ≥ 2, not {list(rows.shape)}")
    inputs = math.prod(rows.shape[1:])
    pool = max(1, -(-inputs // MAX_INPUTS))
    flat = _pooled(rows.reshape(len(rows), inputs).astype(np.float64), pool)
    if not np.isfinite(flat).all():
        raise MalformedError("an encoder cannot be fitted to NaN or infinity", subject=tensor)
    mean = flat.mean(axis=0)
    projection = _projection(flat - mean, min(dims, MAX_DIMS), seed)
    bandwidth = _median_distance((flat - mean) @ projection)
    encoder = Encoder(
        tensor=tensor,
        inputs=inputs,
        pool=pool,
        dims=projection.shape[1],
        features=features,
        seed=seed,
        bandwidth=bandwidth,
        mean=mean.astype("<f4").tobytes(),
        projection=projection.astype("<f4").tobytes(),
    )
    _check_encoder(encoder)
    return encoder


def encode_encoder(encoder: Encoder) -> bytes:
    """Canonical bytes: equal encoders give equal bytes."""
    return encode_msgpack(encoder)


def decode_encoder(data: bytes) -> Encoder:
    """Decode and check an encoder blob; raises TooLargeError or MalformedError."""
    encoder = decode_msgpack(data, Encoder, limit=ENCODER_LIMIT, subject="sketch encoder")
    _check_encoder(encoder)
    return encoder


def sketch_id(encoder: Encoder) -> str:
    """What sketches must share to be merged or compared: SHA-256 of the encoder's canonical bytes, in hex."""
    return hashlib.sha256(encode_encoder(encoder)).hexdigest()


class Sketcher:
    """Sums up inputs; not thread-safe. Rows with NaN or infinity are counted in `skipped` only."""

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
        rows = np.asarray(_numbers(x), np.float32)
        size = math.prod(rows.shape[1:]) if rows.ndim > 1 else -1
        if size != self.encoder.inputs:
            raise MalformedError(
                f"the encoder reads {self.encoder.inputs} values per example, the input is {list(rows.shape)}",
                subject=self.encoder.tensor,
            )
        flat = _pooled(rows.reshape(len(rows), size), self.encoder.pool)
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


def rows_of(encoder: Encoder, rows: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Those examples that an encoder can read, each without its batch axis, as (n, inputs) numbers."""
    kept: list[npt.NDArray[Any]] = []
    for given in rows:
        # One text alone is no array, and as one of numpy's strings would be copied several times.
        row = np.array(given, object) if isinstance(given, (bytes, str)) else np.asarray(given)
        if row.dtype.kind not in TEXT and row.size != encoder.inputs:
            continue
        numbers = _numbers(row[np.newaxis]).reshape(1, -1)
        if numbers.shape[1] == encoder.inputs:
            kept.append(numbers)
    return np.concatenate(kept) if kept else np.empty((0, encoder.inputs), np.float32)


def outlying(encoder: Encoder, x: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which examples (n, …) lie far from the training data: a mean square over `OUTLYING` of the encoder's whitened
    coordinates, which is 1 on that data. (n,); False for NaN."""
    rows = np.asarray(_numbers(x), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        flat = _pooled(rows.reshape(len(rows), -1), encoder.pool) - np.frombuffer(encoder.mean, "<f4")
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
    """How far data of the same origin lies from `reference`: a quantile over windows of held-out inputs.

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


def _check_encoder(encoder: Encoder) -> None:
    width = -(-encoder.inputs // encoder.pool) if encoder.pool > 0 else 0
    sizes = len(encoder.mean) == 4 * width and len(encoder.projection) == 4 * width * encoder.dims
    bounds = (
        encoder.schema == SCHEMA
        and 0 < width <= MAX_INPUTS
        and 0 < encoder.dims <= MAX_DIMS
        and 0 < encoder.features <= MAX_FEATURES
        and encoder.features % 2 == 0
        and encoder.seed >= 0
        and encoder.bandwidth > 0
        and math.isfinite(encoder.bandwidth)
    )
    if not (sizes and bounds):
        raise MalformedError("the sketch encoder's sizes do not agree or are out of bounds", subject="sketch")


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


def _numbers(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rows = np.asarray(x)
    return text_numbers(rows) if rows.dtype.kind in TEXT else rows


def _pooled(flat: npt.NDArray[Any], pool: int) -> npt.NDArray[Any]:
    if pool == 1:
        return flat
    width = -(-flat.shape[1] // pool)
    padded = np.pad(flat, ((0, 0), (0, width * pool - flat.shape[1])), mode="edge")
    averaged: npt.NDArray[Any] = padded.reshape(len(flat), width, pool).mean(axis=2)
    return averaged


def _projection(centred: Floats, dims: int, seed: int) -> Floats:
    """Three quarters principal directions, the rest random ones across them, each over its deviation.

    Principal directions alone are blind to a shift that leaves their span, such as a new offset on
    pixels that hardly vary; random directions in the remainder see it.
    """
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    deviation = spread / math.sqrt(len(centred) - 1)
    floor = max(1e-2 * float(deviation[0]), 1e-12)
    kept = max(1, min(dims - dims // 4, int((deviation > floor).sum())))
    top = directions[:kept]
    signs = np.where(np.take_along_axis(top, np.abs(top).argmax(axis=1)[:, None], 1) < 0, -1.0, 1.0)
    rest = min(dims // 4, centred.shape[1] - kept)
    across = np.random.default_rng(seed).normal(size=(rest, centred.shape[1]))
    across -= across @ top.T @ top
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    rows = np.concatenate([top * signs, across])
    scales = np.maximum((centred @ rows.T).std(axis=0, ddof=1), floor)
    scaled: Floats = rows.T / scales
    return scaled


def _median_distance(embedded: Floats) -> float:
    points = embedded[:: max(1, len(embedded) // 400)]
    squares = (points**2).sum(axis=1)
    gaps = squares[:, None] + squares[None, :] - 2.0 * points @ points.T
    median = float(np.median(gaps[np.triu_indices(len(points), 1)]))
    return math.sqrt(median) if median > 1e-12 else 1.0


def _frequencies(encoder: Encoder) -> Singles:
    # numpy promises that a bit generator's raw stream never changes, but not that `normal` does
    # not; hub and devices run different numpy versions, so the normals are made here (Box-Muller).
    size = encoder.dims * encoder.features // 2
    pairs = -(-size // 2)
    raw = np.random.PCG64(encoder.seed).random_raw(2 * pairs) >> np.uint64(11)
    uniform = (raw.astype(np.float64) + 0.5) / 2.0**53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * np.pi * uniform[pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]
    matrix: Singles = (normal.reshape(encoder.dims, -1) / encoder.bandwidth).astype(np.float32)
    return matrix
