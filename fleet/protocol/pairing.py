"""The identity of an audited pair's input, as a number that reveals repeats and little else.

A guard that counted one scene twice would take repetition for evidence, so each distinct input counts once in a
rollout, on whatever device it appears. Devices send keyed 64-bit hashes (BLAKE2b, RFC 7693): a plain hash of a small
input could be looked up in a table. The key is the rollout's and its attempt's, so no input is linked across rollouts.
It follows from the channel's document, which every device and mirror reads: who has that and the hashes, as the hub
has, can try out inputs of which there are few. It is no secret from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.channel import RolloutRef

KEY_BYTES = 8


def input_keys(
    rollout: RolloutRef, inputs: Mapping[str, npt.NDArray[Any]], rows: int, batched: Collection[str]
) -> tuple[bytes, ...]:
    """The key of each row, `KEY_BYTES` long: the same in whatever batch the row comes.

    Args:
        inputs: by name; BYTES as object arrays.
        batched: the inputs that count rows, each (rows, …); the others belong to every row.
    """
    secret = hashlib.blake2b(f"{rollout.id}/{rollout.attempt}/{rollout.salt}".encode(), digest_size=32).digest()
    parts = [{name: array[row] if name in batched else array for name, array in inputs.items()} for row in range(rows)]
    return tuple(_key(secret, part) for part in parts)


def _key(secret: bytes, row: Mapping[str, Any]) -> bytes:
    found = hashlib.blake2b(digest_size=KEY_BYTES, key=secret)
    for name, value in sorted(row.items()):
        array = np.asarray(value)
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        if array.dtype != object:
            found.update(np.ascontiguousarray(array).tobytes())
            continue
        for item in array.ravel():
            text = item if isinstance(item, bytes) else str(item).encode()
            found.update(len(text).to_bytes(8, "little") + text)
    return found.digest()
