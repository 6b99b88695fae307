"""The fixed encoder of a model name: whitened projections of inputs, and the random frequencies of a sketch.

It is fitted once to training inputs and is then a blob of every release, so that what `sketch` sums up stays
comparable. Where an input may hold NaN and infinity, an encoder reads such a number as the training data's mean
(`GAPS`): what is left of the row counts, and how many rows have gaps is for the data's quality to say.
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
from fleet.protocol.texts import TEXT, text_numbers

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
ENCODER_LIMIT = 1 << 20  # bytes of an encoder blob
MAX_INPUTS = 4096  # wider inputs are averaged over neighbours first, so that the blob stays small
MAX_FIT_ROWS = 2000
MAX_FEATURES = 8192
MAX_DIMS = 60
SCHEMA = 1
GAPS = 2  # the schema of an encoder that reads NaN and infinity as the mean; agents that do not know it refuse it
CAPABILITY = "sketch-gaps"  # what an agent needs for it


class Encoder(Struct, frozen=True, kw_only=True):
    """The fixed encoder of a model name; its canonical bytes are a blob of the release.

    `schema` is `SCHEMA`, or `GAPS`. `tensor` is the input it reads, `inputs` the number of values in one example
    (`texts.NUMBERS` of text), `pool` how many neighbouring values are averaged into one. `mean` holds ceil(inputs /
    pool) float32 and `projection` a (ceil(inputs / pool), dims) float32 matrix, little-endian and row-major: mostly
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
    x: npt.NDArray[Any],
    *,
    tensor: str = "",
    dims: int = 16,
    features: int = 512,
    seed: int = 0,
    gaps: bool = False,
) -> Encoder:
    """Fit an encoder to training inputs; the same arguments give the same encoder.

    Args:
        x: (n, …) numbers or texts, n ≥ 2; at most 2,000 evenly spaced rows are used.
        tensor: the name of the input tensor, part of the sketch's identity.
        dims: directions kept (fewer when the data has fewer), at most 60.
        features: even; 4 bytes each in every window.
        gaps: read values that are not finite as the mean, here and in what is summed up later.

    Raises:
        MalformedError: too few rows, values that are not finite without `gaps`, or a setting out of bounds.
    """
    rows = np.asarray(x)
    picked = np.linspace(0, len(rows) - 1, min(len(rows), MAX_FIT_ROWS)).astype(np.int64) if rows.ndim else np.empty(0)
    rows = _numbers(rows[picked]) if len(picked) else rows
    if rows.ndim < 2 or rows.shape[0] < 2:
        raise MalformedError(f"an encoder is fitted to (n, …) inputs with n ≥ 2, not {list(rows.shape)}")
    inputs = math.prod(rows.shape[1:])
    pool = max(1, -(-inputs // MAX_INPUTS))
    flat = rows.reshape(len(rows), inputs).astype(np.float64)
    flat = _pooled(_filled(flat, _means(flat, pool)) if gaps else flat, pool)
    if not np.isfinite(flat).all():
        raise MalformedError("an encoder cannot be fitted to NaN or infinity", subject=tensor)
    mean = flat.mean(axis=0)
    projection = _projection(flat - mean, min(dims, MAX_DIMS), seed)
    bandwidth = _median_distance((flat - mean) @ projection)
    encoder = Encoder(
        schema=GAPS if gaps else SCHEMA,
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
    """Return the id that sketches share to be merged or compared: SHA-256 of the encoder's canonical bytes, in hex."""
    return hashlib.sha256(encode_encoder(encoder)).hexdigest()


def encodable_rows(encoder: Encoder, rows: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
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


def _check_encoder(encoder: Encoder) -> None:
    width = -(-encoder.inputs // encoder.pool) if encoder.pool > 0 else 0
    sizes = len(encoder.mean) == 4 * width and len(encoder.projection) == 4 * width * encoder.dims
    bounds = (
        encoder.schema in (SCHEMA, GAPS)
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


def _numbers(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rows = np.asarray(x)
    return text_numbers(rows) if rows.dtype.kind in TEXT else rows


def flattened(encoder: Encoder, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Examples (n, …) of numbers as an encoder projects them: (n, ceil(inputs / pool)).

    Raises:
        MalformedError: rows of another size than the encoder's.
    """
    rows = np.asarray(_numbers(x), np.float32)
    size = math.prod(rows.shape[1:]) if rows.ndim > 1 else -1
    if size != encoder.inputs:
        raise MalformedError(
            f"the encoder reads {encoder.inputs} values per example, the input is {list(rows.shape)}",
            subject=encoder.tensor,
        )
    flat = rows.reshape(len(rows), size)
    if encoder.schema == GAPS and not np.isfinite(flat).all():
        flat = _filled(flat, np.frombuffer(encoder.mean, "<f4"))
    return _pooled(flat, encoder.pool)


def _filled(flat: npt.NDArray[Any], means: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows with what is not finite replaced by the mean of its place; `means` are of the pooled places."""
    found: npt.NDArray[Any] = np.where(np.isfinite(flat), flat, _spread(means, flat.shape[1]))
    return found


def _spread(means: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    return np.repeat(means, -(-width // len(means)))[:width]


def _means(flat: Floats, pool: int) -> Floats:
    """The mean of the finite values of each pooled place; 0 where there are none."""
    finite = np.isfinite(flat)
    sums, counts = np.where(finite, flat, 0.0).sum(axis=0), finite.sum(axis=0)
    padding = (0, -len(sums) % pool)
    totals, seen = (np.pad(part, padding).reshape(-1, pool).sum(axis=1) for part in (sums, counts))
    means: Floats = totals / np.maximum(seen, 1)
    return means


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
