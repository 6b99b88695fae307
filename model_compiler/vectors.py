"""Golden self-test vectors: validation inputs that tell variants, and wrong models, apart."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.manifest import Blob, SelfTest
from fleet.protocol.selftest import LIMIT, Vector, encode_vectors, to_array
from model_compiler.data import Dataset
from model_compiler.metrics import Outputs, first, table
from model_compiler.pack import blob_of

COUNT = 12
TOLERANCE = 0.02  # of an output's spread: rounding on other hardware stays far below, a wrong model far above

Array = npt.NDArray[Any]


def choose(outputs: Mapping[str, Outputs], groups: Array, *, classes: bool, count: int = COUNT) -> list[int]:
    """Indices of validation rows: half where the variants differ most, half spread over `groups`, a number per row.

    `outputs` maps a variant to its outputs (n, …) by name. Where the first output ranks classes, rows
    on which the best two almost tie are left out, since another processor's rounding may turn them.
    """
    stack = np.stack([table(first(o)) if classes else _numbers(first(o)) for o in outputs.values()])
    stack = np.nan_to_num(stack.astype(np.float64))
    steady = np.arange(stack.shape[1])
    if classes:
        top = np.sort(stack, axis=2)
        margin = (top[:, :, -1] - top[:, :, -2]).min(axis=0)
        steady = np.flatnonzero(margin > 0.1 * (stack.std() + 1e-9))
        if len(steady) < count:
            steady = np.argsort(-margin)[: max(count, len(steady))]
    difference = np.abs(stack[:, steady] - stack[:1, steady]).max(axis=(0, 2))
    apart = [int(i) for i in steady[np.argsort(-difference, kind="stable")[: count // 2]]]
    rest = [int(i) for i in steady if int(i) not in apart]
    seen: dict[int, int] = {}
    rank: dict[int, int] = {}  # how many earlier rows are of the same group: the lowest ranks cover all of them
    for index in sorted(rest):
        rank[index] = seen.get(int(groups[index]), 0)
        seen[int(groups[index])] = rank[index] + 1
    return (apart + sorted(rest, key=lambda i: (rank[i], i)))[:count]


def build(
    data: Dataset,
    outputs: Mapping[str, Outputs],
    groups: Array,
    *,
    classes: bool,
    sliced: Collection[str],
    batched: bool,
    least: float = 0.0,
) -> tuple[SelfTest, Blob, bytes]:
    """The self-test section, its blob reference and the blob's bytes.

    Args:
        data, outputs: what was asked, and the answers by variant and name, each (n, …).
        groups: what answers have in common, a number per row (`tasking.groups_of`).
        classes: whether the first output ranks classes.
        sliced: inputs of which a request has rows; of the others it has one sample's whole tensor.
        batched: whether the answers have rows, too; else each is one sample's whole tensor.
        least: where no classes are ranked, the share of vectors whose answers must agree by the task.
    """
    rows = choose(outputs, groups, classes=classes, count=_affordable(data, outputs))

    def one(array: Array, row: int, *, rows: bool) -> Array:
        return array[row : row + 1] if rows else array[row, ...]

    vectors = [
        Vector(
            inputs=tuple(to_array(name, one(array, row, rows=name in sliced)) for name, array in data.inputs.items()),
            outputs={
                variant: tuple(to_array(name, one(values, row, rows=batched)) for name, values in found.items())
                for variant, found in outputs.items()
            },
        )
        for row in rows
    ]
    encoded = encode_vectors(vectors)
    blob = blob_of(encoded)
    selftest = SelfTest(
        blob=blob, vectors=len(vectors), tolerance=_tolerance(outputs), min_agreement=1.0 if classes else least
    )
    return selftest, blob, encoded


def _numbers(values: Array) -> Array:
    """An output (n, …) as a table of numbers; equal texts get equal ones."""
    flat = values.reshape(len(values), -1)
    if flat.dtype.kind != "O":
        return flat
    codes: Array = np.array([zlib.crc32(item) for item in flat.ravel()], np.float64).reshape(flat.shape)
    return codes


def _affordable(data: Dataset, outputs: Mapping[str, Outputs]) -> int:
    """As many vectors as half of the blob's limit holds, at least one."""
    arrays = [*data.inputs.values(), *(array for found in outputs.values() for array in found.values())]
    each = sum(array[:1].nbytes for array in arrays)
    return max(1, min(COUNT, LIMIT // 2 // max(each, 1)))


def _spread(values: Array) -> float:
    """Largest minus smallest of the numbers among an output's values; 0 without any."""
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return float(known.max()) - float(known.min()) if known.size and known.dtype.kind != "O" else 0.0


def _tolerance(outputs: Mapping[str, Outputs]) -> dict[str, float]:
    """By variant, or by variant and output where a model has several: they differ in scale."""
    found = {}
    for variant, arrays in outputs.items():
        for name, values in arrays.items():
            key = variant if len(arrays) == 1 else f"{variant}:{name}"
            found[key] = TOLERANCE * _spread(values) + 1e-5
    return found
