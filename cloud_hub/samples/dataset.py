"""A snapshot's content: plain arrays in one `.npz`, named by the hash of what they say.

The file holds `input:NAME` for every input, `label` and `ids`; that of 0.1 held `x`, the first input of each sample
without its name, in place of the inputs. Prefixes keep an input called `label` apart from the labels.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cloud_hub.errors import InvalidError, NotFoundError
from model_compiler.data import UNNAMED, Array, npz_of

PREFIX = "input:"


@dataclass(frozen=True)
class Dataset:
    """`inputs` maps a name to numbers (n, …); `label` int64 (n,), -1 without one; `ids` (n,) text.

    A lone input called `UNNAMED` takes the model's own name.
    """

    inputs: Mapping[str, Array]
    label: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]

    @property
    def id(self) -> str:
        """SHA-256 of the content, hexadecimal; the same as 0.1 gave to a lone float32 input called `x`."""
        first = next(iter(self.inputs.values()))
        if list(self.inputs) == [UNNAMED] and first.dtype == np.float32:
            digest = hashlib.sha256(repr((first.shape, self.ids.tolist())).encode())
            digest.update(np.ascontiguousarray(first, "<f4").tobytes())
        else:
            kinds = sorted((name, array.dtype.str, array.shape) for name, array in self.inputs.items())
            digest = hashlib.sha256(repr((kinds, self.ids.tolist())).encode())
            for name in sorted(self.inputs):
                digest.update(np.ascontiguousarray(self.inputs[name]).tobytes())
        digest.update(np.ascontiguousarray(self.label, "<i8").tobytes())
        return digest.hexdigest()

    @property
    def labelled(self) -> int:
        """How many samples have a label."""
        return int((self.label >= 0).sum())


def encode_dataset(dataset: Dataset) -> bytes:
    """The dataset as `.npz` bytes."""
    named = {f"{PREFIX}{name}": array for name, array in dataset.inputs.items()}
    return npz_of({**named, "label": dataset.label, "ids": dataset.ids})


def decode_dataset(data: bytes, *, subject: str) -> Dataset:
    """Read `.npz` bytes, never unpickled; raises InvalidError."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            inputs = {key.removeprefix(PREFIX): arrays[key] for key in arrays.files if key.startswith(PREFIX)}
            inputs = inputs or {UNNAMED: arrays["x"].astype(np.float32)}
            dataset = Dataset(inputs, arrays["label"].astype(np.int64), arrays["ids"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidError(f"{subject} is not a snapshot: {error}", subject=subject) from error
    if {len(array) for array in inputs.values()} | {len(dataset.label)} != {len(dataset.ids)}:
        raise InvalidError(f"{subject}: its arrays have different lengths", subject=subject)
    return dataset


def read_dataset(path: Path) -> Dataset:
    """Read a snapshot's file."""
    try:
        return decode_dataset(path.read_bytes(), subject=str(path))
    except FileNotFoundError:
        raise NotFoundError(f"no snapshot file {path}", subject=str(path)) from None
