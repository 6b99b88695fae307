"""A snapshot's content: plain arrays in one `.npz`, named by the hash of what they say.

The file holds `input:NAME` for every input (of text `text:NAME`, the protocol's bytes, and `shape:NAME`), `label` and
`ids`; that of 0.1 held `x`, the first input of each sample
without its name, in place of the inputs. Prefixes keep an input called `label` apart from the labels. Where a label is
no class number there is `label_json`, too: the UTF-8 bytes of a JSON list of all labels, null where there is none.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from cloud_hub.errors import InvalidError, NotFoundError
from fleet.protocol.errors import MalformedError
from fleet.protocol.tensors import from_bytes, to_bytes
from fleet.tasks import Task
from model_compiler.inputs.dataset import UNNAMED, Array, npz_of

PREFIX, TEXT, SHAPE = "input:", "text:", "shape:"


@dataclass(frozen=True)
class Dataset:
    """`inputs` maps a name to numbers or text (bytes) (n, …); `label` int64 (n,), -1 without one; `ids` (n,) text.

    `other` holds the labels as tasks keep them (plain JSON, None without one) where one of them is no class number;
    `label` is then -1 for every row that has such a label, and what is right is `labels`. A lone input called `UNNAMED`
    takes the model's own name.
    """

    inputs: Mapping[str, Array]
    label: npt.NDArray[np.int64]
    ids: npt.NDArray[np.str_]
    other: tuple[Any, ...] = ()

    @property
    def labels(self) -> tuple[Any, ...]:
        """Every row's label as its task keeps it; None without one."""
        return self.other or tuple(None if label < 0 else label for label in self.label.tolist())

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
                digest.update(_bytes_of(self.inputs[name]))
        digest.update(np.ascontiguousarray(self.label, "<i8").tobytes())
        if self.other:
            digest.update(_json(self.other))
        return digest.hexdigest()

    @property
    def labelled(self) -> int:
        """The number of samples with a label."""
        return sum(label is not None for label in self.labels)


@dataclass(frozen=True)
class Stacked:
    """A snapshot as training takes it.

    `inputs` maps each input's name to (n, …) and `ids` are the n samples, labelled or not. `rows`, int64 (m,), are the
    numbers of the labelled ones in order, and `y` their m labels as `Task.stack` gives them for the task.
    """

    inputs: Mapping[str, Array]
    ids: npt.NDArray[np.str_]
    rows: npt.NDArray[np.int64]
    y: Any


def make_dataset(inputs: Mapping[str, Array], labels: tuple[Any, ...], ids: npt.NDArray[np.str_]) -> Dataset:
    """Make a dataset of labels as tasks keep them, None without one; class numbers are kept as 0.1 kept them."""
    classes = [label if type(label) is int and label >= 0 else -1 for label in labels]  # True is no class
    others = any(label is not None and number < 0 for label, number in zip(labels, classes, strict=True))
    return Dataset(inputs, np.asarray(classes, np.int64), ids, labels if others else ())


def stack(dataset: Dataset, task: Task[Any]) -> Stacked:
    """A snapshot's inputs by name, and its labels as the task means them.

    Args:
        dataset: as `snapshots.load` or `read_dataset` gives it, of any version.
        task: of the model: `fleet.tasks.of_manifest(manifest)`, or `fleet.tasks.of(spec, classes, outputs)`.

    Raises:
        InvalidError: a label is none of the task; the message says which, of what sample, and what it may be.
    """
    known = [(row, label) for row, label in enumerate(dataset.labels) if label is not None]
    kept = []
    for row, label in known:
        try:
            kept.append(task.label(label))
        except MalformedError as error:
            sample = str(dataset.ids[row])
            raise InvalidError(f"sample {sample} of the snapshot: {error}", subject=sample, hint=error.hint) from error
    try:
        y = task.stack(kept)
    except MalformedError as error:
        raise InvalidError(f"the snapshot: {error}", subject="snapshot", hint=error.hint) from error
    return Stacked(dataset.inputs, dataset.ids, np.asarray([row for row, _ in known], np.int64), y)


def encode_dataset(dataset: Dataset) -> bytes:
    """The dataset as `.npz` bytes."""
    arrays: dict[str, Array] = {}
    for name, array in dataset.inputs.items():
        if array.dtype.kind == "O":
            arrays[f"{TEXT}{name}"] = np.frombuffer(to_bytes(array), np.uint8)
            arrays[f"{SHAPE}{name}"] = np.array(array.shape, np.int64)
        else:
            arrays[f"{PREFIX}{name}"] = array
    arrays |= {"label": dataset.label, "ids": dataset.ids}
    if dataset.other:
        arrays["label_json"] = np.frombuffer(_json(dataset.other), np.uint8)
    return npz_of(arrays)


def decode_dataset(data: bytes, *, subject: str) -> Dataset:
    """Read `.npz` bytes, never unpickled; raises InvalidError."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            inputs = dict(_inputs_in(arrays))
            inputs = inputs or {UNNAMED: arrays["x"].astype(np.float32)}
            text = arrays["label_json"].tobytes() if "label_json" in arrays.files else b"[]"
            other = msgspec.json.decode(text, type=tuple[Any, ...])
            dataset = Dataset(inputs, arrays["label"].astype(np.int64), arrays["ids"], other)
    except (
        OSError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        MalformedError,
    ) as error:  # ValueError: also what is no JSON list
        raise InvalidError(f"{subject} is not a snapshot: {error}", subject=subject) from error
    rows = {len(array) for array in inputs.values()} | {len(dataset.label), len(dataset.labels)}
    if rows != {len(dataset.ids)}:
        raise InvalidError(f"{subject}: its arrays have different lengths", subject=subject)
    return dataset


def read_dataset(path: Path) -> Dataset:
    """Read a snapshot's file.

    Raises:
        NotFoundError: it is not there.
        InvalidError: it is damaged.
    """
    try:
        return decode_dataset(path.read_bytes(), subject=str(path))
    except FileNotFoundError:
        raise NotFoundError(f"no snapshot file {path}", subject=str(path)) from None


def _inputs_in(arrays: Any) -> Iterator[tuple[str, Array]]:
    for key in arrays.files:
        if key.startswith(PREFIX):
            yield key.removeprefix(PREFIX), arrays[key]
        elif key.startswith(TEXT):
            name = key.removeprefix(TEXT)
            yield name, from_bytes(arrays[key].tobytes(), "BYTES", arrays[f"{SHAPE}{name}"].tolist(), name)


def _bytes_of(array: Array) -> bytes:
    return to_bytes(array) if array.dtype.kind == "O" else np.ascontiguousarray(array).tobytes()


def _json(labels: tuple[Any, ...]) -> bytes:
    return msgspec.json.encode(labels, order="deterministic")
