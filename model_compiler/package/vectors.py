"""Golden self-test vectors: validation inputs that tell variants, and wrong models, apart."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.protocol.codec import encode_msgpack
from fleet.protocol.manifest import Blob, SelfTest
from fleet.protocol.selftest import LIMIT, Vector, encode_vectors, from_array, to_array
from model_compiler.inputs.dataset import Dataset
from model_compiler.inputs.release_folder import blob_of
from model_compiler.metrics import Outputs, first, table

COUNT = 12
STEPS = 4  # of golden answers within the tolerance: finer digits are noise that a patch would carry
STAYS = 0.25  # of the tolerance: an answer that lies no farther from the one before is told by that, and costs nothing
TOLERANCE = 0.02  # of an output's spread: rounding on other hardware stays far below, a wrong model far above

Array = npt.NDArray[Any]


class Rows(NamedTuple):
    """The tensors with rows: these `inputs` of a request, and its `answers`. Any other is one sample's whole tensor.

    `sizes` are those of answers that were filled up, by variant and output, as in `runner.Run`.
    """

    inputs: Collection[str]
    answers: bool
    sizes: Mapping[tuple[str, str], Array] = MappingProxyType({})


def choose(
    outputs: Mapping[str, Outputs], groups: Array, *, classes: bool, count: int = COUNT, kept: Sequence[int] = ()
) -> list[int]:
    """Choose validation rows for the self-test: half where the variants differ most, half spread over `groups`.

    Where the first output ranks classes, rows on which the best two almost tie are left out, since another processor's
    rounding may turn them.

    Args:
        outputs: by variant, its outputs (n, …) by name.
        groups: (n,) a number per row.
        classes: the first output ranks classes.
        count: rows to choose.
        kept: rows that an earlier release's vectors ask; they come first, since a device has their inputs already.

    Returns:
        Indices of rows.
    """
    stack = _side_by_side([table(first(o)) if classes else _numbers(first(o)) for o in outputs.values()])
    stack = np.nan_to_num(stack.astype(np.float64))
    steady = np.arange(stack.shape[1])
    if classes:
        top = np.sort(stack, axis=2)
        margin = (top[:, :, -1] - top[:, :, -2]).min(axis=0)
        steady = np.flatnonzero(margin > 0.1 * (stack.std() + 1e-9))
        if len(steady) < count:
            steady = np.argsort(-margin)[: max(count, len(steady))]
    known = set(steady.tolist())
    mine = [row for row in kept if row in known][:count]
    steady = np.array([row for row in steady if row not in mine], np.int64)
    count -= len(mine)
    difference = np.abs(stack[:, steady] - stack[:1, steady]).max(axis=(0, 2))
    apart = [int(i) for i in steady[np.argsort(-difference, kind="stable")[: count // 2]]]
    rest = [int(i) for i in steady if int(i) not in apart]
    seen: dict[int, int] = {}
    rank: dict[int, int] = {}  # how many earlier rows are of the same group: the lowest ranks cover all of them
    for index in sorted(rest):
        rank[index] = seen.get(int(groups[index]), 0)
        seen[int(groups[index])] = rank[index] + 1
    return mine + (apart + sorted(rest, key=lambda i: (rank[i], i)))[:count]


def _side_by_side(tables: Sequence[Array]) -> Array:
    """Tables (n, …) as one array; narrower ones are filled up with zeros, as a detector's with fewer boxes."""
    widest = max(found.shape[1] for found in tables)
    return np.stack([np.pad(found, ((0, 0), (0, widest - found.shape[1]))) for found in tables])


def build(
    data: Dataset,
    outputs: Mapping[str, Outputs],
    groups: Array,
    counts: Rows,
    *,
    classes: bool,
    least: float = 0.0,
    former: Sequence[Vector] = (),
) -> tuple[SelfTest, Blob, bytes]:
    """The self-test section, its blob reference and the blob's bytes.

    Args:
        data, outputs: what was asked, and the answers by variant and name, each (n, …).
        groups: what answers have in common, a number per row (`tasking.groups_of`).
        classes: whether the first output ranks classes.
        counts: what of a request and of its answers has rows.
        least: where no classes are ranked, the share of vectors whose answers must agree by the task.
        former: the vectors of the release that devices come from. The same inputs at the same places make a patch of
            little more than the answers.
    """
    kept = _rows_of(former, data, counts.inputs)
    rows = choose(outputs, groups, classes=classes, count=_affordable(data, outputs), kept=list(kept))
    golden = _in_steps(outputs, rows, kept) if classes else outputs

    vectors = [
        Vector(
            inputs=tuple(
                to_array(name, _one(array, row, rows=name in counts.inputs)) for name, array in data.inputs.items()
            ),
            outputs={
                variant: tuple(
                    to_array(name, _one(_own(values, row, counts.sizes.get((variant, name))), row, rows=counts.answers))
                    for name, values in found.items()
                )
                for variant, found in golden.items()
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


def _own(values: Array, row: int, sizes: Array | None) -> Array:
    """An output (n, …) without what fills up the answer to one of its rows."""
    return values if sizes is None else values[(slice(None), *map(slice, sizes[row].tolist()))]


def _one(array: Array, row: int, *, rows: bool) -> Array:
    """Take a request's part of a sample: a row of its own, or the sample's whole tensor."""
    return array[row : row + 1] if rows else array[row, ...]


def _rows_of(former: Sequence[Vector], data: Dataset, sliced: Collection[str]) -> dict[int, Vector]:
    """The rows of `data` that earlier vectors ask, in the vectors' order, each with its own; others are left out."""
    if not former:
        return {}
    count = len(next(iter(data.inputs.values())))
    requests = (
        tuple(to_array(name, _one(array, row, rows=name in sliced)) for name, array in data.inputs.items())
        for row in range(count)
    )
    places: dict[bytes, int] = {}
    for row, request in enumerate(requests):
        places.setdefault(encode_msgpack(request), row)
    found: dict[int, Vector] = {}
    for vector in former:
        place = places.get(encode_msgpack(vector.inputs))
        if place is not None:
            found.setdefault(place, vector)
    return found


def _in_steps(
    outputs: Mapping[str, Outputs], rows: Sequence[int], kept: Mapping[int, Vector] = MappingProxyType({})
) -> dict[str, dict[str, Array]]:
    """The answers with real numbers rounded to a power of two far below the tolerance, so that they pack well; those
    that hardly differ from what an earlier vector says are what that says.

    Where that would let two classes of a chosen row change places, a variant's answers are rounded only, or stay as
    they are.
    """
    found = {}
    for variant, arrays in outputs.items():
        rounded = {name: _rounded(values) for name, values in arrays.items()}
        stayed = {name: _stayed(values, rounded[name], variant, name, kept) for name, values in arrays.items()}
        best = table(first(arrays))[rows].argmax(1)
        choices = (one for one in (stayed, rounded) if np.array_equal(table(first(one))[rows].argmax(1), best))
        found[variant] = next(choices, dict(arrays))
    return found


def _stayed(values: Array, rounded: Array, variant: str, name: str, kept: Mapping[int, Vector]) -> Array:
    """Rounded answers (n, …), with those of earlier vectors where the exact ones lie close by."""
    if rounded is values:  # nothing was to be rounded
        return values
    found = rounded.copy()
    near = STAYS * TOLERANCE * _spread(values)
    for row, vector in kept.items():
        before = next((from_array(one) for one in vector.outputs.get(variant, ()) if one.name == name), None)
        if before is not None and before.dtype == values.dtype and before.size == values[row].size:
            known = before.reshape(values[row].shape)
            found[row] = np.where(np.abs(known - values[row]) <= near, known, rounded[row])
    return found


def _rounded(values: Array) -> Array:
    spread = _spread(values)
    if values.dtype not in (np.float32, np.float64) or not np.isfinite(values).all() or spread < 1e-6:
        return values
    step = 2.0 ** np.floor(np.log2(TOLERANCE * spread / STEPS))
    rounded: Array = (np.round(values / step) * step).astype(values.dtype)
    return rounded


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
