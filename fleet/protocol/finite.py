"""NaN and infinity are no numbers: refused in what a model is asked, failures in what it answers.

A model that means them (a logarithm of zero, a missing value as NaN) says so in its manifest, tensor by tensor:
`Tensor.finite` false. Integers, booleans and BYTES are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import AnyArray

CAPABILITY = "non-finite"  # an agent that has it compares golden answers that hold NaN or infinity
_SMALL = 8192  # values; below, a sum of squares is the fastest look, above it is no faster and may start BLAS's threads


def is_finite(array: AnyArray) -> bool:
    """Tell whether no value is NaN or infinite; 1 µs for a small array of FP32 or FP64."""
    if array.dtype.kind != "f":
        return True
    # NaN and infinity survive in a sum of squares. So do squares that overflow: then each value is looked at.
    if array.size <= _SMALL and array.dtype.itemsize > 2 and math.isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def where_not(array: AnyArray) -> str:
    """The first value that is NaN or infinite, as in `NaN at [0, 3]`; empty when there is none."""
    if is_finite(array):
        return ""
    place = tuple(int(axis) for axis in np.argwhere(~np.isfinite(array))[0])
    return f"{'NaN' if np.isnan(array[place]) else 'infinite'} at {list(place)}"


def not_finite(kind: str, arrays: Mapping[str, AnyArray], specs: Sequence[Tensor]) -> str:
    """Return the first tensor with a forbidden value, as in `output 'logits' is NaN at [0, 3]`; empty when all is well.

    Args:
        kind: `input` or `output`, for the message.
        arrays: by name; one that is missing here is not looked at.
        specs: the manifest's tensors, which say what each may hold.
    """
    for spec in specs:
        array = arrays.get(spec.name)
        if array is not None and spec.finite and not is_finite(array):
            return f"{kind} {spec.name!r} is {where_not(array)}"
    return ""
