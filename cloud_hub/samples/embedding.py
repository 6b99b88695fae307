"""Samples as points of few dimensions, cheaply and whatever their inputs are. Pure.

Each input becomes `DIMENSIONS` numbers: its values where it has no more, else their count sketch (each value is added
to one of so many sums with a random sign; Charikar, Chen & Farach-Colton 2002), which keeps inner products on average
and a squared distance to about sqrt(2 / DIMENSIONS) of itself. Of text the trigrams of its bytes are counted. The
random choices depend on the input's size alone, so that samples of all times compare.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.messages import Array
from fleet.protocol.tensors import from_array

Floats = npt.NDArray[np.float64]
DIMENSIONS = 64
LARGEST = 1e30  # of a value: what lies beyond, infinity too, counts as this, so that squares stay finite
FARTHEST = 10.0  # spreads from the median that count: one forged value moves no other sample
TEXT_BYTES = 4 << 10  # of a text that are looked at
SPREAD_OF_MAD = 1.4826  # the median absolute deviation of a normal distribution is its spread divided by this


def embed(inputs: Sequence[Array]) -> Floats:
    """A sample's inputs in the order of their names, float64 (inputs * DIMENSIONS,); NaN counts as 0.

    Raises:
        MalformedError: an input cannot be read.
    """
    ordered = sorted(inputs, key=lambda array: array.name)
    return np.concatenate([_one(from_array(array)) for array in ordered]) if ordered else np.zeros(0)


def standardise(embedded: Floats) -> Floats:
    """Embeddings (n, d) as points of one scale: each column by its median and spread, within `FARTHEST`.

    The spread is robust where most values differ, else the standard deviation: a column that is seldom anything but
    zero counts by the samples where it is.
    """
    centred = embedded - np.median(embedded, axis=0)
    robust = SPREAD_OF_MAD * np.median(np.abs(centred), axis=0)
    spread = np.where(robust > 0, robust, centred.std(axis=0))
    scaled: Floats = np.clip(centred / np.where(spread > 0, spread, 1.0), -FARTHEST, FARTHEST)
    return scaled


def _one(array: npt.NDArray[Any]) -> Floats:
    if array.dtype.kind not in "fiub":
        return _text(array)
    flat = np.nan_to_num(array.reshape(-1).astype(np.float64), posinf=LARGEST, neginf=-LARGEST)
    flat = np.clip(flat, -LARGEST, LARGEST)
    if flat.size <= DIMENSIONS:
        return np.pad(flat, (0, DIMENSIONS - flat.size))
    place, sign = _choices(flat.size)
    return np.bincount(place, weights=flat * sign, minlength=DIMENSIONS).astype(np.float64)


@lru_cache(maxsize=4)
def _choices(size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    random = np.random.default_rng(size)
    place = random.integers(0, DIMENSIONS, size, np.uint8)
    return place, (random.integers(0, 2, size, np.int8) * 2 - 1).astype(np.int8)


def _text(array: npt.NDArray[Any]) -> Floats:
    """Shares of trigrams by their hash."""
    found = np.zeros(DIMENSIONS)
    items = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
    text = b"\0".join(items)[:TEXT_BYTES]
    for start in range(max(1, len(text) - 2)):
        found[zlib.crc32(text[start : start + 3]) % DIMENSIONS] += 1
    shares: Floats = found / found.sum()
    return shares
