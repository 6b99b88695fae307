"""Golden self-test vectors: validation inputs that tell variants, and wrong models, apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.protocol.manifest import Blob, SelfTest
from fleet.protocol.selftest import Vector, encode_vectors, to_array
from model_compiler.pack import blob_of

COUNT = 12
TOLERANCE = 0.02  # of an output's spread: rounding on other hardware stays far below, a wrong model far above


def choose(outputs: dict[str, npt.NDArray[np.float32]], count: int = COUNT) -> list[int]:
    """Indices of validation rows: half where the variants differ most, half spread over the classes.

    `outputs` maps a variant to its outputs (n, classes). Rows on which the first two classes almost
    tie are left out, since another processor's rounding may turn them.
    """
    stack = np.stack(list(outputs.values()))
    top = np.sort(stack, axis=2)
    margin = (top[:, :, -1] - top[:, :, -2]).min(axis=0)
    spread = stack.std() + 1e-9
    steady = np.flatnonzero(margin > 0.1 * spread)
    if len(steady) < count:
        steady = np.argsort(-margin)[: max(count, len(steady))]
    difference = np.abs(stack[:, steady] - stack[:1, steady]).max(axis=(0, 2))
    apart = [int(i) for i in steady[np.argsort(-difference, kind="stable")[: count // 2]]]
    classes = stack[0].argmax(axis=1)
    rest = [int(i) for i in steady if int(i) not in apart]
    spread_out = sorted(rest, key=lambda i: (rest_rank(classes, rest, i), i))
    return (apart + spread_out)[:count]


def rest_rank(classes: npt.NDArray[Any], rest: list[int], index: int) -> int:
    """How many earlier rows of `rest` have the same class: taking the lowest ranks first covers all classes."""
    return sum(1 for other in rest if other < index and classes[other] == classes[index])


def build(
    x: npt.NDArray[Any], outputs: dict[str, npt.NDArray[np.float32]], *, input_name: str, output_name: str
) -> tuple[SelfTest, Blob, bytes]:
    """The self-test section, its blob reference and the blob's bytes."""
    rows = choose(outputs)
    vectors = [
        Vector(
            inputs=(to_array(input_name, x[row : row + 1]),),
            outputs={name: (to_array(output_name, values[row : row + 1]),) for name, values in outputs.items()},
        )
        for row in rows
    ]
    data = encode_vectors(vectors)
    blob = blob_of(data)
    tolerance = {name: float(TOLERANCE * (values.max() - values.min()) + 1e-5) for name, values in outputs.items()}
    return SelfTest(blob=blob, vectors=len(vectors), tolerance=tolerance), blob, data
