"""The check of a request's arrays: by name against a manifest's names, datatypes and shapes, and finite numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from fleet.protocol.errors import MalformedError, RefusalError
from fleet.protocol.finite import is_finite, not_finite
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import AnyArray, datatype_of, dtype_of, from_bytes

_ARRAYS = (np.ndarray, np.generic)


def check_arrays(found: Mapping[str, AnyArray], specs: tuple[Tensor, ...], *, kind: str = "input") -> None:
    """Check inputs by name against the manifest's names, datatypes and shapes.

    A request in process has nothing else to check: about 3 µs for one small input.

    Args:
        found: arrays by name.
        specs: the manifest's tensors.
        kind: their name in messages.

    Raises:
        RefusalError: one is missing, unknown, no array, of another datatype or shape, or holds NaN or infinity where it
            has to be finite.
    """
    for spec in specs:
        array = found.get(spec.name)
        if array is None:
            refuse("name", f"{kind} {spec.name!r} is missing", hint=f"the model's {kind}s are {names_of(specs)}")
        if not isinstance(array, _ARRAYS):
            found_type = type(array).__name__
            refuse(
                "datatype",
                f"{kind} {spec.name!r} is a {found_type}, no array",
                hint=f"give a numpy array of {spec.datatype}",
            )
        wanted = dtype_of(spec.datatype)
        if array.dtype is not wanted and array.dtype != wanted:
            refuse("datatype", f"{kind} {spec.name!r} is {datatype_of(array)}, the model takes {spec.datatype}")
        if not _has_shape(array.shape, spec.shape):
            refuse("shape", f"{kind} {spec.name!r} has shape {list(array.shape)}, the model takes {list(spec.shape)}")
    if len(found) > len(specs):
        unknown = set(found) - {spec.name for spec in specs}
        refuse("name", f"the model has no {kind} {sorted(unknown)[0]!r}")
    broken = not_finite(kind, found, specs)
    if broken:
        hint = "this model takes finite numbers only; null in JSON stands for NaN"
        raise RefusalError(broken, word="value", hint=hint, **_broken_place(found, specs))


def _broken_place(found: Mapping[str, AnyArray], specs: Sequence[Tensor]) -> dict[str, Any]:
    spec = next(spec for spec in specs if spec.finite and not is_finite(found[spec.name]))
    array = found[spec.name]
    row = array[0].size if spec.shape[:1] == (-1,) and len(array) else array.size
    return {"tensor": spec.name, "place": int(np.argmin(np.isfinite(array).ravel())) % max(row, 1)}


@lru_cache(maxsize=256)  # a device's models are asked the same few shapes again and again
def _has_shape(have: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(have) == len(wanted) and all(want in (-1, size) for size, want in zip(have, wanted, strict=True))


def names_of(specs: Sequence[Tensor]) -> str:
    """The names of tensors as messages show them."""
    return ", ".join(spec.name for spec in specs)


def refuse(word: str, message: str, *, hint: str = "") -> NoReturn:
    """Raise RefusalError; `word` is one of `errors.REFUSALS`.

    Args:
        word: one of `errors.REFUSALS`, for programs.
        message: for people.
        hint: a remedy; empty for none.
    """
    raise RefusalError(message, word=word, hint=hint)


def raw_input(raw: AnyArray, specs: Sequence[Tensor]) -> dict[str, AnyArray]:
    """A body of raw bytes as the model's single input, by name.

    Raises RefusalError where the model has others, or the bytes do not fill it.
    """
    if len(specs) != 1:
        refuse("name", f"a raw body needs a model with one input, this one has {len(specs)}")
    spec = specs[0]
    shape = list(spec.shape)
    if spec.datatype == "BYTES" or shape.count(-1) > 1:
        refuse("datatype", f"a raw body cannot fill input {spec.name!r} of {spec.datatype} {shape}")
    itemsize = dtype_of(spec.datatype).itemsize
    if -1 in shape:
        step = itemsize
        for size in shape:
            step *= size if size != -1 else 1
        if step == 0 or raw.size % step:
            refuse("shape", f"{raw.size} bytes do not fill input {spec.name!r} of {spec.datatype} {shape}")
        shape[shape.index(-1)] = raw.size // step
    try:
        return {spec.name: from_bytes(raw.data, spec.datatype, shape, spec.name)}
    except MalformedError as error:
        raise RefusalError(str(error), word="shape") from error
