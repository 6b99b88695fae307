"""Calibration and validation sets: `.npz` files of named inputs and `y`, never unpickled.

Every array but `y` is one input of the model, called as in the file, its first axis the samples. `y`
holds what is right: one integer class per sample, or numbers of any shape for other metrics. Where an
input is itself called `y`, what is right is the array `@y`. A lone input called `x` takes the model's own name.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.finite import is_finite
from fleet.protocol.tensors import DTYPES, datatype_of, to_bytes
from model_compiler.errors import DataError

Array = npt.NDArray[Any]
NUMBERS = "fiu"  # kinds of dtype that a model can take
UNNAMED = "x"  # a lone input that was given no name of its own
RIGHT, RIGHT_BESIDE_Y = "y", "@y"


@dataclass(frozen=True)
class Dataset:
    """`inputs` maps a name to real numbers, integers, truth values or text of shape (n, …), all of one n; `y` has shape
    (n, …).

    `y` is int64 (n,) for classes, float32, integers or text else, and None where nobody needs it (calibration).
    Text is an object array of UTF-8 bytes.
    """

    inputs: Mapping[str, Array]
    y: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def x(self) -> Array:
        """The first input: what drift is watched on."""
        return next(iter(self.inputs.values()))

    @property
    def labels(self) -> Array:
        """`y`; raises DataError when the set has none."""
        if self.y is None:
            raise DataError("the validation set has no y", hint="np.savez(path, NAME=…, y=…)")
        return self.y

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one sample of each input."""
        return {name: array.shape[1:] for name, array in self.inputs.items()}

    def renamed(self, names: Mapping[str, str]) -> Dataset:
        """The same set with its inputs called by `names` (old to new), in that order."""
        return Dataset({new: self.inputs[old] for old, new in names.items()}, self.y)

    def take(self, rows: Array | slice) -> Dataset:
        """Some of the samples."""
        return Dataset({n: a[rows] for n, a in self.inputs.items()}, None if self.y is None else self.y[rows])

    def cast(self, dtypes: Mapping[str, Any]) -> Dataset:
        """The same set with other dtypes of its inputs; raises DataError for real numbers and truth values that these
        cannot hold."""
        return Dataset({n: _cast(n, a, np.dtype(dtypes[n])) for n, a in self.inputs.items()}, self.y)

    def numbered(self, labels: Sequence[str]) -> Dataset:
        """The same set with class names in `y` (n,) as their numbers in `labels`; as it is where `y` is no text.

        Raises DataError for a name that is none of them.
        """
        if self.y is None or self.y.ndim != 1 or self.y.dtype.kind != "O":
            return self
        numbers = {label.encode(): number for number, label in enumerate(labels)}
        unknown = sorted(set(self.y.tolist()) - set(numbers))
        if unknown:
            raise DataError(
                f"y holds {unknown[0].decode(errors='replace')!r}, which is none of the classes {', '.join(labels)}",
                subject="y",
                hint="give all class names in the order of the outputs: --labels a,b,c",
            )
        return Dataset(self.inputs, np.array([numbers[name] for name in self.y.tolist()], np.int64))

    def plain(self, kept: Mapping[str, str] = MappingProxyType({})) -> Dataset:
        """The same set in the dtypes of most models: half and double precision as single, truth values as bytes.

        Args:
            kept: the datatypes that inputs shall have where they can be taken for it (`wanted`).
        """
        dtypes = {name: plain(array.dtype) for name, array in self.inputs.items()}
        return self.cast({name: wanted(kept, name, array.dtype) or dtypes[name] for name, array in self.inputs.items()})


def plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """See `Dataset.plain`."""
    return np.dtype({"f": np.float32, "b": np.uint8}.get(dtype.kind, dtype))


def wanted(datatypes: Mapping[str, str], name: str, given: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the datatype of an input by its name in `datatypes`: another precision of real numbers, bytes as truth
    values, or truth values as numbers.

    None where its name is not there, or the given data means something else.
    """
    found = DTYPES.get(datatypes.get(name, ""))
    if found is None or found.kind not in "fb":
        return found if found is not None and given.kind == "b" and found.kind in "iu" else None
    return found if given.kind in (found.kind, "b") or (found.kind == "b" and given == np.uint8) else None


def _cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        cast: Array = np.ascontiguousarray(array, dtype=dtype)
    refuse_lost(name, array, cast)
    return cast


def refuse_lost(name: str, array: Array, cast: Array) -> None:
    """Raise DataError when numbers of an input became others in another dtype: real ones infinite, others unequal.

    Real numbers may be rounded, and numbers become real ones.

    Args:
        name: the input's, for the message.
        array: (n, …), as it was given.
        cast: the same in the other dtype.
    """
    if cast.dtype.kind == "f":
        lost = np.isfinite(array) & ~np.isfinite(cast) if array.dtype.kind == "f" else np.isinf(cast)
    else:
        lost = np.asarray(cast != array)
    if not lost.any():
        return
    place = tuple(int(axis) for axis in np.argwhere(lost)[0])
    rows = int(lost.reshape(len(array), -1).any(axis=1).sum())
    holds = datatype_of(cast)
    raise DataError(
        f"input {name!r} has values that {holds} cannot hold in {rows} of {len(array)} rows, the first in row "
        f"{place[0]}: {array[place]} at {list(place)}",
        subject=name,
        hint=f"leave these rows out, scale the data, or use a model that takes more than {holds}",
    )


def load_dataset(
    path: Path,
    *,
    labelled: bool = True,
    non_finite: Collection[str] = (),
    precise: bool = False,
    exact: bool = False,
) -> Dataset:
    """Read an `.npz` with inputs and `y` (which may be missing when not `labelled`).

    Args:
        path: the file.
        labelled: whether `y` must be there.
        precise, exact: see `make_dataset`.
        non_finite: inputs and outputs that may hold NaN and infinity; with any, `y` may.

    Raises:
        DataError: missing, not an npz, without inputs or `y`, or pickled.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            hint = "np.savez(path, NAME=…, y=…)"
            raise DataError(f"{path}: holds one array, not the inputs and y", subject=str(path), hint=hint)
        with loaded as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as .npz: {error}", subject=str(path)) from error
    y = arrays.pop(RIGHT_BESIDE_Y if RIGHT_BESIDE_Y in arrays else RIGHT, None)
    if not arrays or (labelled and y is None):
        have = ", ".join(arrays) or "none"
        raise DataError(
            f"{path}: needs the inputs' arrays and y, it has {have}",
            subject=str(path),
            hint="np.savez(path, NAME=…, y=…); where an input is called y, the labels are @y",
        )
    return make_dataset(arrays, y, str(path), non_finite=non_finite, precise=precise, exact=exact)


def save_dataset(path: Path, data: Dataset) -> None:
    """Write what `load_dataset` reads, whatever the inputs are called (`np.savez` has keywords of its own).

    Raises DataError for an input called `@y`, which the file could not tell from the labels, and for text that ends
    with a zero byte, which numpy's files do not keep.
    """
    if RIGHT_BESIDE_Y in data.inputs:
        raise DataError(f"an input called {RIGHT_BESIDE_Y!r} cannot be kept in a file", subject=str(path))
    arrays = dict(data.inputs)
    if data.y is not None:
        arrays[RIGHT_BESIDE_Y if RIGHT in arrays else RIGHT] = data.y
    path.write_bytes(npz_of({name: _fixed(array, name, path) for name, array in arrays.items()}))


def _fixed(array: Array, name: str, path: Path) -> Array:
    """Text as bytes of one length, which numpy writes without pickling; other arrays as they are."""
    if array.dtype.kind != "O":
        return array
    if any(item.endswith(b"\0") for item in array.ravel().tolist()):
        raise DataError(f"{name} holds text that ends with a zero byte, which no file keeps", subject=str(path))
    return array.astype(np.bytes_)


def npz_of(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as the bytes of an `.npz` file, under any names; the same arrays give the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as out:
                np.lib.format.write_array(out, np.asanyarray(array), allow_pickle=False)
    return file.getvalue()


def make_dataset(
    x: Array | Mapping[str, Array],
    y: Array | None,
    name: str,
    *,
    non_finite: Collection[str] = (),
    precise: bool = False,
    exact: bool = False,
) -> Dataset:
    """Check and convert; an array alone is one unnamed input.

    Args:
        x: inputs by name, each (n, …).
        y: what is right, likewise; None where nobody needs it.
        name: of the set, for messages.
        non_finite: inputs and outputs that may hold NaN and infinity.
        precise: keep half and double precision and truth values, which else become single precision and bytes.
        exact: likewise, and give every sample an input that has one value only.

    Raises:
        DataError: names `name` and what is wrong.
    """
    inputs = dict(x) if isinstance(x, Mapping) else {UNNAMED: x}
    if exact:
        count = next((len(array) for array in (*inputs.values(), y) if array is not None and array.ndim), 0)
        inputs = {key: np.repeat(array[None], count, 0) if not array.ndim else array for key, array in inputs.items()}
    for key, array in inputs.items():
        rank = 2 if len(inputs) == 1 and array.dtype.kind not in "USO" and not exact else 1
        # A lone unnamed input gets its name later; the release is looked through for it.
        loose = key in non_finite or (bool(non_finite) and list(inputs) == [UNNAMED])
        inputs[key] = _checked(array, f"{name}: {key}", name, rank=rank, finite=not loose, precise=precise or exact)
    counts = {len(array) for array in inputs.values()} | (set() if y is None else {len(y)})
    if counts == {0} or len(counts) != 1:
        have = ", ".join(f"{len(a)} of {k}" for k, a in inputs.items())
        raise DataError(
            f"{name}: {have} and {'no' if y is None else len(y)} labels; equal and more than none are needed",
            subject=name,
        )
    if y is not None:
        y = _checked(y, f"{name}: y", name, rank=1, finite=not non_finite)
        y = y.astype(np.int64) if y.ndim == 1 and y.dtype.kind in "iu" else y
    return Dataset(inputs, y)


def _checked(array: Array, what: str, subject: str, *, rank: int, finite: bool, precise: bool = False) -> Array:
    if array.ndim < rank:
        raise DataError(f"{what} must have shape (n, …), it is {array.shape}", subject=subject)
    if array.dtype.kind in "USO":
        return _text(array, what, subject)
    if array.dtype.kind == "b":
        return np.ascontiguousarray(array, dtype=array.dtype if precise else np.uint8)
    if array.dtype.kind not in NUMBERS:
        raise DataError(f"{what} must hold numbers or text, it is {array.dtype}", subject=subject)
    if array.dtype.kind == "f":
        array = np.ascontiguousarray(array, dtype=array.dtype if precise and array.dtype.itemsize <= 8 else np.float32)
        if finite and not is_finite(array):
            bad = np.flatnonzero((~np.isfinite(array.reshape(len(array), -1))).any(axis=1))
            raise DataError(
                f"{what} holds NaN or infinite values in {len(bad)} of {len(array)} rows, the first in row {bad[0]}",
                subject=subject,
                hint="leave these rows out, or, where the model means such values, say so of that input or output: "
                "--non-finite NAME (in a recipe non_finite)",
            )
    return np.ascontiguousarray(array)


def _text(array: Array, what: str, subject: str) -> Array:
    """Text as the protocol's BYTES are: an object array of UTF-8 bytes."""
    try:
        items = [item.encode() if isinstance(item, str) else bytes(memoryview(item)) for item in array.ravel().tolist()]
    except TypeError as error:
        raise DataError(f"{what} must hold numbers or text: {error}", subject=subject) from error
    found = np.empty(len(items), dtype=object)
    found[:] = items
    return found.reshape(array.shape)


def check_pair(calibration: Dataset, validation: Dataset) -> None:
    """Raise DataError unless both have the same inputs and share no sample: a verdict is measured on unseen data."""
    if calibration.shapes() != validation.shapes():
        raise DataError(f"calibration inputs are {_words(calibration)}, validation inputs {_words(validation)}")
    seen = set(_rows(calibration.plain()))
    shared = sum(row in seen for row in _rows(validation.plain()))
    if shared:
        raise DataError(
            f"{shared} validation inputs are also calibration inputs",
            hint="use disjoint sets: the verdict must come from data that calibration never saw",
        )


def _words(data: Dataset) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in data.shapes().items())


def _rows(data: Dataset) -> list[bytes]:
    """A digest of every sample over all its inputs."""
    arrays = [np.ascontiguousarray(array) for array in data.inputs.values()]
    return [
        hashlib.blake2b(b"".join(to_bytes(array[row, ...]) for array in arrays), digest_size=16).digest()
        for row in range(len(data))
    ]


def check_labels(y: Array, classes: int) -> None:
    """Raise DataError when a label lies outside the model's classes."""
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"y must be one integer class per input, it is {y.dtype} {y.shape}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise DataError(f"validation labels lie in {low} to {high}; the model has classes 0 to {classes - 1}")
