"""Arrays between the compiler and its children, as files: numpy's own format, without pickles.

Text has no such format: it travels as the bytes of the Open Inference Protocol, with its shape beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.tensors import from_bytes, to_bytes

Array = npt.NDArray[Any]
_SHAPE = "shape of "


def save_inputs(folder: Path, inputs: Mapping[str, Array]) -> None:
    """Write a data set's inputs; a name is the user's and never a path."""
    for place, (name, array) in enumerate(inputs.items()):
        (folder / f"{place}.name").write_text(name, "utf-8")
        if array.dtype.kind == "O":
            save_arrays(folder / f"{place}.npz", {"text": array})
        else:
            np.save(folder / f"{place}.npy", array, allow_pickle=False)


def load_inputs(folder: Path) -> tuple[list[str], list[Array]]:
    """Read what `save_inputs` wrote: the names, and the arrays in the same order."""
    names = sorted(folder.glob("*.name"), key=lambda path: int(path.stem))
    arrays = []
    for path in names:
        text, numbers = path.with_suffix(".npz"), path.with_suffix(".npy")
        arrays.append(load_arrays(text)["text"] if text.exists() else np.load(numbers, allow_pickle=False))
    return [path.read_text("utf-8") for path in names], arrays


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name as one `.npz`."""
    packed: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            packed[name] = np.frombuffer(to_bytes(array), np.uint8)
            packed[_SHAPE + name] = np.array(array.shape, np.int64)
        else:
            packed[name] = array
    np.savez(path, **packed)


def load_arrays(path: Path) -> dict[str, Array]:
    """Read what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        packed = {name: archive[name] for name in archive.files}
    found: dict[str, Array] = {}
    for name, array in packed.items():
        shape = packed.get(_SHAPE + name)
        if not name.startswith(_SHAPE):
            found[name] = array if shape is None else from_bytes(array.tobytes(), "BYTES", shape.tolist(), name)
    return found
