"""Calibration and validation sets: `.npz` files with `x` and `y`, never unpickled."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_compiler.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """`x` is float32 or int8 of shape (n, …), `y` int64 of shape (n,) with class numbers."""

    x: npt.NDArray[np.float32 | np.int8]
    y: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


def load_dataset(path: Path) -> Dataset:
    """Read an `.npz` with `x` and `y`.

    Raises:
        DataError: missing, not an npz, without `x` or `y`, or pickled.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: holds one array, not x and y", subject=str(path), hint="np.savez(path, x=x, y=y)")
        with loaded as archive:
            arrays = {name: archive[name] for name in ("x", "y") if name in archive}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as .npz: {error}", subject=str(path)) from error
    if set(arrays) != {"x", "y"}:
        raise DataError(f"{path}: needs arrays named x and y", subject=str(path), hint="np.savez(path, x=x, y=y)")
    return make_dataset(arrays["x"], arrays["y"], str(path))


def make_dataset(x: npt.NDArray[np.generic], y: npt.NDArray[np.generic], name: str) -> Dataset:
    """Check and convert; raises DataError naming `name` and what is wrong with it."""
    if x.ndim < 2:
        raise DataError(f"{name}: x must have shape (n, …), it is {x.shape}", subject=name)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{name}: y must be one integer class per input, it is {y.dtype} {y.shape}", subject=name)
    if len(x) == 0 or len(x) != len(y):
        raise DataError(
            f"{name}: {len(x)} inputs and {len(y)} labels; equal and more than none are needed", subject=name
        )
    if x.dtype != np.int8:
        if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
            raise DataError(f"{name}: x must hold numbers, it is {x.dtype}", subject=name)
        x = np.ascontiguousarray(x, dtype=np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"{name}: x holds NaN or infinite values", subject=name)
    return Dataset(x, np.ascontiguousarray(y, dtype=np.int64))  # type: ignore[arg-type]


def check_pair(calibration: Dataset, validation: Dataset) -> None:
    """Raise DataError unless both have one shape and share no input: a verdict is measured on unseen data."""
    if calibration.x.shape[1:] != validation.x.shape[1:]:
        raise DataError(
            f"calibration inputs have shape {calibration.x.shape[1:]}, validation inputs {validation.x.shape[1:]}"
        )
    seen = {row.tobytes() for row in calibration.x}
    shared = sum(row.tobytes() in seen for row in validation.x)
    if shared:
        raise DataError(
            f"{shared} validation inputs are also calibration inputs",
            hint="use disjoint sets: the verdict must come from data that calibration never saw",
        )


def check_labels(validation: Dataset, classes: int) -> None:
    """Raise DataError when a label lies outside the model's classes."""
    low, high = int(validation.y.min()), int(validation.y.max())
    if low < 0 or high >= classes:
        raise DataError(f"validation labels lie in {low} to {high}; the model has classes 0 to {classes - 1}")
