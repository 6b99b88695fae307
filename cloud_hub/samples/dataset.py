"""A snapshot's content: plain arrays in one `.npz`, named by the hash of what they say."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cloud_hub.errors import InvalidError, NotFoundError


@dataclass(frozen=True)
class Dataset:
    """`x` float32 (n, …) the first input of each sample; `label` int64 (n,), -1 without one; `ids` (n,) text."""

    x: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]

    @property
    def id(self) -> str:
        """SHA-256 of the content, hexadecimal."""
        digest = hashlib.sha256(repr((self.x.shape, self.ids.tolist())).encode())
        digest.update(np.ascontiguousarray(self.x, "<f4").tobytes())
        digest.update(np.ascontiguousarray(self.label, "<i8").tobytes())
        return digest.hexdigest()

    @property
    def labelled(self) -> int:
        """How many samples have a label."""
        return int((self.label >= 0).sum())


def encode_dataset(dataset: Dataset) -> bytes:
    """The dataset as `.npz` bytes."""
    file = io.BytesIO()
    np.savez_compressed(file, x=dataset.x, label=dataset.label, ids=dataset.ids)
    return file.getvalue()


def decode_dataset(data: bytes, *, subject: str) -> Dataset:
    """Read `.npz` bytes, never unpickled; raises InvalidError."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            dataset = Dataset(arrays["x"].astype(np.float32), arrays["label"].astype(np.int64), arrays["ids"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidError(f"{subject} is not a snapshot: {error}", subject=subject) from error
    if not len(dataset.x) == len(dataset.label) == len(dataset.ids):
        raise InvalidError(f"{subject}: its arrays have different lengths", subject=subject)
    return dataset


def read_dataset(path: Path) -> Dataset:
    """Read a snapshot's file."""
    try:
        return decode_dataset(path.read_bytes(), subject=str(path))
    except FileNotFoundError:
        raise NotFoundError(f"no snapshot file {path}", subject=str(path)) from None
