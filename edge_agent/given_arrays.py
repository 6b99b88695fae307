"""A person's arrays for `edge-agent infer`: numpy files, as the arrays that a model takes, by its inputs' names."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.errors import UsageError
from fleet.protocol.errors import MalformedError
from fleet.protocol.tensors import DTYPES, datatype_of

Array = npt.NDArray[Any]
LONE = ""  # the name of an array whose input nobody has named


def read(given: Sequence[str]) -> dict[str, Array]:
    """Arrays by name from `FILE.npy` (`LONE`), `NAME=FILE.npy`, or `FILE.npz`, which names its own.

    Raises:
        UsageError: a file that is missing or holds something else, or a name that is given twice.
    """
    found: dict[str, Array] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or Path(one).exists():
            name, path = LONE, one
        for key, array in _load(Path(path), name).items():
            if key in found:
                raise UsageError(f"input {key!r} is given twice" if key else "two files are given without a name")
            found[key] = array
    return found


def _load(path: Path, name: str) -> dict[str, Array]:
    hint = "np.save(PATH, array), or np.savez(PATH, NAME=array, …) for several inputs"
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {name: loaded}
        with loaded as archive:
            arrays = {key: archive[key] for key in archive.files}
    except OSError as error:
        said = f"{path} cannot be read: {error.strerror or error}"
        raise UsageError(said, subject=str(path), hint="give a file: --input FILE.npy") from error
    except (EOFError, ValueError, zipfile.BadZipFile) as error:  # numpy's own words advise to trust the file
        raise UsageError(
            f"{path} is no array of numbers or text that numpy saved", subject=str(path), hint=hint
        ) from error
    if name:
        raise UsageError(f"{path} holds several arrays, which name themselves", subject=name, hint=f"--input {path}")
    return arrays


def fitted(model: str, given: Mapping[str, Array], inputs: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """The arrays that a model takes, in its datatypes; those of an `.npz` that are no inputs, such as `y`, stay out.

    Args:
        model: its name, for messages.
        given: see `read`; one array may do without a name, or be called `x`, where the model has one input.
        inputs: `name`, `datatype` and `shape` of each, as the model's metadata has them.

    Raises:
        UsageError: an input is missing, or has values that its datatype cannot hold.
    """
    names = [str(spec["name"]) for spec in inputs]
    nameless = [key for key in (LONE, "x") if key in given and key not in names]
    arrays = dict(given)
    if len(names) == 1 and nameless and names[0] not in given:
        arrays[names[0]] = given[nameless[0]]
    missing = [name for name in names if name not in arrays]
    if missing or (LONE in given and len(names) > 1):
        takes = ", ".join(f"{spec['name']} {spec['datatype']} {list(spec['shape'])}" for spec in inputs)
        lacks = f"input {missing[0]!r} is missing" if missing else "a file is given without the name of its input"
        raise UsageError(
            f"model {model!r} takes {takes}; {lacks}",
            subject=model,
            hint=" ".join(f"--input {name}={name}.npy" for name in names) + ", or one .npz with arrays of these names",
        )
    return {str(spec["name"]): _cast(arrays[str(spec["name"])], spec) for spec in inputs}


def _cast(array: Array, spec: Mapping[str, Any]) -> Array:
    """The array in the input's datatype: text as UTF-8, or numbers that it holds (real ones may be rounded)."""
    name, datatype = str(spec["name"]), str(spec["datatype"])
    wanted = DTYPES.get(datatype)
    text = array.dtype.kind in "SU"
    if wanted is None or text != (datatype == "BYTES"):
        raise UsageError(f"input {name!r} is {_kind(array)}, the model takes {datatype}", subject=name)
    if text:
        items = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        words = np.empty(len(items), object)
        words[:] = items
        return words.reshape(array.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        cast: Array = np.ascontiguousarray(array).astype(wanted).reshape(array.shape)
        same = np.isfinite(cast) | ~np.isfinite(array) if wanted.kind == "f" else cast == array
    if not same.all():
        place = [int(axis) for axis in np.argwhere(~same)[0]]
        raise UsageError(
            f"input {name!r} holds {array[tuple(place)]} at {place}, which {datatype} cannot hold", subject=name
        )
    return cast


def _kind(array: Array) -> str:
    try:
        return datatype_of(array)
    except MalformedError:
        return "text" if array.dtype.kind in "SU" else str(array.dtype)
