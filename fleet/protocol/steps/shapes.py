"""Steps that put values into another shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from fleet.protocol.steps.base import MAX_ROW_VALUES, Bound, Step, Unary, bad, check_size, shown
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import AnyArray


class Window(Unary, frozen=True, kw_only=True, tag="window"):
    """Pieces of `size` elements along a row's first axis, each `hop` after the one before: (n, time, …) becomes
    (n, pieces, size, …). What is left at the end is dropped; a series that is shorter than one piece is refused."""

    size: int
    hop: int

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        (tensor,) = tensors
        if not tensor.row or not 1 <= self.size <= MAX_ROW_VALUES or not 1 <= self.hop <= MAX_ROW_VALUES:
            bad(self, f"size {self.size} and hop {self.hop} on {shown(tensor)}; both are at least 1, on a series")
        time, lead = tensor.row[0], len(tensor.shape) - len(tensor.row)
        if 0 <= time < self.size:
            bad(self, f"a series of {time} is shorter than a piece of {self.size}")
        pieces = -1 if time == -1 else 1 + (time - self.size) // self.hop
        shape = (*tensor.shape[:lead], pieces, self.size, *tensor.row[1:])

        def apply(arrays: Sequence[AnyArray]) -> AnyArray:
            series = arrays[0]
            length = series.shape[lead]
            if length < self.size:
                bad(self, f"input {self.input!r} has {length} elements, a piece has {self.size}")
            count = 1 + (length - self.size) // self.hop
            check_size(self, series.size // max(length, 1) * count * self.size)
            starts = np.arange(count) * self.hop
            return np.take(series, starts[:, None] + np.arange(self.size), axis=lead)

        return Bound((tensor,), replace(tensor, shape=shape), apply)


class Concat(Step, frozen=True, kw_only=True, tag="concat"):
    """Tensors of one datatype side by side along the last axis, as `output`; a tensor of one value for each row counts
    as (n, 1). Of one tensor it is a new name."""

    inputs: tuple[str, ...]
    output: str

    @property
    def takes(self) -> tuple[str, ...]:
        """See Step."""
        return self.inputs

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        wide = [t if t.row else replace(t, shape=(*t.shape, 1)) for t in tensors]
        first = wide[0]
        for tensor in wide[1:]:
            if (tensor.datatype, tensor.shape[:-1]) != (first.datatype, first.shape[:-1]):
                bad(
                    self,
                    f"{shown(first)} does not fit beside {shown(tensor)}",
                    hint="only the last axis may differ; scale first",
                )
        sizes = [tensor.shape[-1] for tensor in wide]
        shape = (*first.shape[:-1], -1 if -1 in sizes else sum(sizes))
        flat = [not tensor.row for tensor in tensors]

        def apply(arrays: Sequence[AnyArray]) -> AnyArray:
            columns = [a[..., None] if add else a for a, add in zip(arrays, flat, strict=True)]
            return np.concatenate(columns, axis=-1)

        finite = all(tensor.finite for tensor in tensors)
        gives = Tensor(name=self.output, datatype=first.datatype, shape=shape, finite=finite)
        return Bound(tuple(tensors), gives, apply)
