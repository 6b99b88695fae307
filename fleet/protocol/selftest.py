"""Golden self-test vectors: what every variant of a release must answer on the device.

The blob is MessagePack: a list of `Vector`. Expected outputs are stored per variant, as the
compiler's own run of that variant gave them, so that the tolerance can be tight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.errors import TooLargeError
from fleet.protocol.manifest import SelfTest
from fleet.protocol.messages import Array
from fleet.protocol.tensors import AnyArray
from fleet.protocol.tensors import from_array as from_array
from fleet.protocol.tensors import to_array as to_array

LIMIT = 16 << 20  # bytes of a self-test blob

Run = Callable[[dict[str, AnyArray]], dict[str, AnyArray]]


class Vector(Struct, frozen=True, kw_only=True):
    """One request (any batch size) and, per variant name, the outputs that it must give."""

    inputs: tuple[Array, ...]
    outputs: dict[str, tuple[Array, ...]]


class Outcome(Struct, frozen=True, kw_only=True):
    """`worst` is the largest absolute difference seen, `agreement` the share of rows that keep
    their arg-max class; `reason` says what failed and is empty when `passed`."""

    passed: bool
    vectors: int
    worst: float
    agreement: float
    reason: str = ""


class _Vectors(Struct, frozen=True, kw_only=True):
    vectors: tuple[Vector, ...]


def encode_vectors(vectors: Sequence[Vector]) -> bytes:
    """The blob; raises TooLargeError over 16 MiB."""
    data = encode_msgpack(_Vectors(vectors=tuple(vectors)))
    if len(data) > LIMIT:
        raise TooLargeError(
            f"self-test vectors have {len(data)} bytes, at most {LIMIT} are allowed",
            subject="selftest",
            hint="keep fewer vectors",
        )
    return data


def decode_vectors(data: bytes) -> tuple[Vector, ...]:
    """The vectors of a blob; raises TooLargeError or MalformedError."""
    return decode_msgpack(data, _Vectors, limit=LIMIT, subject="self-test vectors").vectors


def check(vectors: Sequence[Vector], selftest: SelfTest, variant: str, run: Run) -> Outcome:
    """Run every vector through `run` and compare with what `variant` must answer.

    Args:
        run: named input arrays → named output arrays; what it raises passes through.

    The tolerance is the one under `VARIANT:OUTPUT`, else under the variant's, else under the output's
    name; an output without one fails. A missing output, another shape and NaN fail as well.
    """
    if not vectors or len(vectors) != selftest.vectors:
        return _failed(f"the blob holds {len(vectors)} vectors, the manifest says {selftest.vectors}")
    worst, kept, rows, reason = 0.0, 0, 0, ""
    for number, vector in enumerate(vectors):
        expected = vector.outputs.get(variant)
        if not expected:
            return _failed(f"vector {number} holds no outputs for variant {variant!r}")
        actual = run({a.name: from_array(a) for a in vector.inputs})
        for position, array in enumerate(expected):
            want, have = from_array(array), actual.get(array.name)
            if have is None or have.shape != want.shape:
                shape = "none" if have is None else list(have.shape)
                return _failed(f"vector {number}: output {array.name!r} has shape {shape}, not {list(want.shape)}")
            difference = _difference(want, have)
            limit = _limit(selftest, variant, array.name)
            if not difference <= limit and not reason:
                reason = f"vector {number}: output {array.name!r} is off by {difference:.4g}, {limit:.4g} is allowed"
            worst = max(worst, difference) if difference == difference else float("inf")
            if position == 0:
                same, total = _agreement(want, have)
                kept, rows = kept + same, rows + total
    agreement = kept / rows if rows else 0.0
    if not reason and agreement < selftest.min_agreement:
        reason = f"{agreement:.4g} of the rows keep their class, at least {selftest.min_agreement:.4g} must"
    return Outcome(passed=not reason, vectors=len(vectors), worst=worst, agreement=agreement, reason=reason)


def _failed(reason: str) -> Outcome:
    return Outcome(passed=False, vectors=0, worst=float("inf"), agreement=0.0, reason=reason)


def _limit(selftest: SelfTest, variant: str, output: str) -> float:
    for key in (f"{variant}:{output}", variant, output):
        if key in selftest.tolerance:
            return selftest.tolerance[key]
    return -1.0


def _difference(want: AnyArray, have: AnyArray) -> float:
    if want.size == 0:
        return 0.0
    return float(np.abs(want.astype(np.float64) - have.astype(np.float64)).max())


def _agreement(want: AnyArray, have: AnyArray) -> tuple[int, int]:
    if want.ndim == 0 or want.size == 0:
        return 1, 1
    same: Any = want.argmax(axis=-1) == have.argmax(axis=-1)
    return int(np.sum(same)), int(np.size(same))
