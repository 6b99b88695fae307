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
from fleet.protocol.finite import is_finite, where_not
from fleet.protocol.manifest import SelfTest, Tensor
from fleet.protocol.messages import Array
from fleet.protocol.tensors import AnyArray, to_bytes
from fleet.protocol.tensors import from_array as from_array
from fleet.protocol.tensors import to_array as to_array

LIMIT = 16 << 20  # bytes of a self-test blob

Arrays = dict[str, AnyArray]
Run = Callable[[Arrays], Arrays]
Agree = Callable[[Arrays, Arrays], tuple[int, int]]  # golden and actual outputs → rows that agree, rows


class Vector(Struct, frozen=True, kw_only=True):
    """One request (any batch size) and, per variant name, the outputs that it must give."""

    inputs: tuple[Array, ...]
    outputs: dict[str, tuple[Array, ...]]


class SelftestResult(Struct, frozen=True, kw_only=True):
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


def check_vectors(
    vectors: Sequence[Vector],
    selftest: SelfTest,
    variant: str,
    run: Run,
    outputs: Sequence[Tensor] = (),
    agree: Agree | None = None,
) -> SelftestResult:
    """Run every vector through `run` and compare with what `variant` must answer.

    Args:
        run: named input arrays → named output arrays; what it raises passes through.
        outputs: the manifest's; NaN and infinity, in the golden answer or in the model's, fail unless they are
            allowed here. Where they are, they must be where the golden answer has them.
        agree: what the release's task says of two answers (`fleet.tasks`); None compares the best of the first
            output's scores.

    Where `agree` judges, a size that the manifest leaves open may be another than in the golden answer.
    The tolerance is the one under `VARIANT:OUTPUT`, else under the variant's, else under the output's
    name; an output without one fails. A missing output and another shape or kind of datatype fail as well.
    """
    free = {spec.name for spec in outputs if not spec.finite}
    open_ = {spec.name: spec.shape for spec in outputs if agree is not None and -1 in spec.row}
    if not vectors or len(vectors) != selftest.vectors:
        return _failed(f"the blob holds {len(vectors)} vectors, the manifest says {selftest.vectors}")
    worst, kept, rows, reason = 0.0, 0, 0, ""
    for number, vector in enumerate(vectors):
        expected = vector.outputs.get(variant)
        if not expected:
            return _failed(f"vector {number} holds no outputs for variant {variant!r}")
        actual = run({a.name: from_array(a) for a in vector.inputs})
        golden = {array.name: from_array(array) for array in expected}
        for position, array in enumerate(expected):
            want, have = golden[array.name], actual.get(array.name)
            broken = _incomparable(want, have, finite=array.name not in free)
            if have is not None and _is_another_size(want, have, open_.get(array.name, ())):
                continue  # as many boxes as this processor finds: the task judges them
            if have is None or broken:
                return _failed(f"vector {number}: output {array.name!r} {broken}")
            difference = _difference(want, have)
            limit = _limit(selftest, variant, array.name)
            if not difference <= limit and not reason:
                reason = f"vector {number}: output {array.name!r} is off by {difference:.4g}, {limit:.4g} is allowed"
            worst = max(worst, difference) if difference == difference else float("inf")
            if position == 0 and agree is None:
                same, total = _agreement(want, have)
                kept, rows = kept + same, rows + total
        if agree is not None:
            same, total = agree(golden, actual)
            kept, rows = kept + same, rows + total
    agreement = kept / rows if rows else 0.0
    if not reason and agreement < selftest.min_agreement:
        reason = f"{agreement:.4g} of the rows keep their answer, at least {selftest.min_agreement:.4g} must"
    return SelftestResult(passed=not reason, vectors=len(vectors), worst=worst, agreement=agreement, reason=reason)


def _is_another_size(want: AnyArray, have: AnyArray, shape: tuple[int, ...]) -> bool:
    """Return whether two answers differ in a size that the manifest's shape leaves open, and in nothing else."""
    if want.shape == have.shape or not len(shape) == want.ndim == have.ndim or not is_finite(have):
        return False
    sizes = zip(shape, want.shape, have.shape, strict=True)
    return all(one == other or (known == -1 and axis) for axis, (known, one, other) in enumerate(sizes))


def _incomparable(want: AnyArray, have: AnyArray | None, *, finite: bool) -> str:
    """Return the fault for which the two need no comparison; empty where there is none."""
    if have is None or have.shape != want.shape:
        return f"has shape {'none' if have is None else list(have.shape)}, not {list(want.shape)}"
    if finite and not is_finite(want):
        return f"is {where_not(want)} in the golden answer"
    return f"is {where_not(have)}" if finite and not is_finite(have) else ""


def _failed(reason: str) -> SelftestResult:
    return SelftestResult(passed=False, vectors=0, worst=float("inf"), agreement=0.0, reason=reason)


def _limit(selftest: SelfTest, variant: str, output: str) -> float:
    for key in (f"{variant}:{output}", variant, output):
        if key in selftest.tolerance:
            return selftest.tolerance[key]
    return -1.0


def _difference(want: AnyArray, have: AnyArray) -> float:
    """The largest absolute difference: infinite where only one side is text, NaN or an infinity."""
    if want.size == 0:
        return 0.0
    if want.dtype.kind == "O" or have.dtype.kind == "O":
        return 0.0 if have.dtype == want.dtype and to_bytes(want) == to_bytes(have) else float("inf")
    one, other = want.astype(np.float64), have.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(one - other))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max())


def _agreement(want: AnyArray, have: AnyArray) -> tuple[int, int]:
    if want.ndim == 0 or want.size == 0 or want.dtype.kind == "O":
        return 1, 1  # nothing ranks classes here; the difference has judged it
    same: Any = want.argmax(axis=-1) == have.argmax(axis=-1)
    return int(np.sum(same)), int(np.size(same))
