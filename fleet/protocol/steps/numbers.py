"""Steps from numbers to numbers, by constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from msgspec.structs import replace

from fleet.protocol.steps.base import Bound, Step, Unary, bad, shown
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import DTYPES, AnyArray, dtype_of

_WIDE = frozenset({"INT32", "INT64", "UINT32", "UINT64", "FP64"})  # FP32 does not hold all of their values

Numbers = tuple[float, ...]


class _Arithmetic(Unary, frozen=True, kw_only=True):
    axis: int = -1

    def _constants(self, tensor: Tensor) -> list[AnyArray]:
        """The fitted fields in their order, as arrays that fit against rows of `tensor`."""
        if tensor.datatype == "BYTES":
            bad(self, f"input {tensor.name!r} holds text", hint="encode it first: one-hot or ordinal")
        dtype_of(tensor.datatype)  # known at all
        dtype, rank = _real(tensor.datatype), len(tensor.row)
        if not -max(rank, 1) <= self.axis <= -1:
            bad(self, f"axis {self.axis} of {shown(tensor)}", hint=f"-1 is the last, -{max(rank, 1)} the first")
        size = tensor.row[self.axis] if rank else 1
        found = []
        for name in self.fitted:
            numbers = getattr(self, name)
            if len(numbers) not in {1, size} or not all(map(math.isfinite, numbers)):
                bad(self, f"{name} has {len(numbers)} numbers, or NaN, for {shown(tensor)}", hint=f"give 1 or {size}")
            with np.errstate(over="ignore"):
                array = np.array(numbers, dtype)
            if not np.isfinite(array).all():
                bad(self, f"{name} holds a number that {dtype} cannot hold")
            found.append(array.reshape(-1, *(1 for _ in range(-1 - self.axis))) if rank else array.reshape(()))
        return found


class Scale(_Arithmetic, frozen=True, kw_only=True, tag="scale"):
    """x · factor + offset. Fitted so that the training data lies in [0, 1]."""

    fitted: ClassVar = ("factor", "offset")
    factor: Numbers = ()
    offset: Numbers = ()

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        (tensor,) = tensors
        factor, offset = self._constants(tensor)
        dtype = _real(tensor.datatype)
        return Bound(
            (tensor,),
            replace(tensor, datatype="FP32"),
            lambda arrays: _single(arrays[0].astype(dtype, copy=False) * factor + offset),
        )


class Normalise(_Arithmetic, frozen=True, kw_only=True, tag="normalise"):
    """(x - mean) / std. Fitted to the training data's mean and standard deviation; one that does not vary has std 1."""

    fitted: ClassVar = ("mean", "std")
    mean: Numbers = ()
    std: Numbers = ()

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        (tensor,) = tensors
        mean, std = self._constants(tensor)
        if not (std > 0).all():
            bad(self, "std must be above 0")
        dtype = _real(tensor.datatype)
        return Bound(
            (tensor,),
            replace(tensor, datatype="FP32"),
            lambda arrays: _single((arrays[0].astype(dtype, copy=False) - mean) / std),
        )


class Clip(_Arithmetic, frozen=True, kw_only=True, tag="clip"):
    """min(max(x, low), high), of floating-point numbers; NaN stays. Fitted to the training data's extremes."""

    fitted: ClassVar = ("low", "high")
    low: Numbers = ()
    high: Numbers = ()

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        (tensor,) = tensors
        _check_float(self, tensor)
        low, high = (limit.astype(dtype_of(tensor.datatype)) for limit in self._constants(tensor))
        if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            bad(self, f"low must not be above high, and {tensor.datatype} must hold both")
        return Bound((tensor,), tensor, lambda arrays: np.minimum(np.maximum(arrays[0], low), high))


class Impute(_Arithmetic, frozen=True, kw_only=True, tag="impute"):
    """`value` in the place of NaN; an infinity stays, and is refused. Fitted to the training data's median."""

    fitted: ClassVar = ("value",)
    value: Numbers = ()

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        (tensor,) = tensors
        _check_float(self, tensor)
        if tensor.finite:
            bad(self, f"input {tensor.name!r} must be finite, so it has no NaN", hint="let it: non-finite")
        (value,) = (number.astype(dtype_of(tensor.datatype)) for number in self._constants(tensor))
        if not np.isfinite(value).all():
            bad(self, f"value holds a number that {tensor.datatype} cannot hold")
        return Bound(
            (tensor,),
            replace(tensor, finite=True),
            lambda arrays: np.where(np.isnan(arrays[0]), value, arrays[0]),
        )


def _real(datatype: str) -> np.dtype[Any]:
    """Return the datatype in which arithmetic on a datatype is done."""
    return DTYPES["FP64"] if datatype in _WIDE else DTYPES["FP32"]


def _single(values: AnyArray) -> AnyArray:
    return np.asarray(values).astype(np.float32, copy=False)


def _check_float(step: Step, tensor: Tensor) -> None:
    if dtype_of(tensor.datatype).kind != "f":
        bad(step, f"input {tensor.name!r} is {tensor.datatype}", hint="it takes floating-point numbers; scale first")
