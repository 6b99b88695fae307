"""Which input an audited pair is about, as a number that tells repeats and little else.

A guard that counted one scene twice would take repetition for evidence, so each distinct input counts once in a
rollout, on whatever device it appears. Devices send keyed 64-bit hashes (BLAKE2b, RFC 7693): a plain hash of a small
input could be looked up in a table. The key is the rollout's and its attempt's, so no input is linked across rollouts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.channel import RolloutRef

KEY_BYTES = 8


def input_keys(rollout: RolloutRef, inputs: Mapping[str, npt.NDArray[Any]], rows: int) -> tuple[bytes, ...]:
    """The key of each row, `KEY_BYTES` long.

    Args:
        inputs: by name, each (rows, …) or, where a request is one row, of any shape; BYTES as object arrays.
    """
    secret = hashlib.blake2b(f"{rollout.id}/{rollout.attempt}/{rollout.salt}".encode(), digest_size=32).digest()
    return tuple(_key(secret, inputs, row, rows) for row in range(rows))


def _key(secret: bytes, inputs: Mapping[str, npt.NDArray[Any]], row: int, rows: int) -> bytes:
    found = hashlib.blake2b(digest_size=KEY_BYTES, key=secret)
    for name, array in sorted(inputs.items()):
        part = array[row] if rows > 1 else array
        found.update(f"{name}\0{array.dtype.str}\0{part.shape}\0".encode())
        if array.dtype != object:
            found.update(np.ascontiguousarray(part).tobytes())
            continue
        for value in np.asarray(part).ravel():
            text = value if isinstance(value, bytes) else str(value).encode()
            found.update(len(text).to_bytes(8, "little") + text)
    return found.digest()
