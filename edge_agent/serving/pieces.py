"""Large batches on LiteRT, in pieces: an interpreter makes room for all rows at once, and that costs out of proportion.

Keyword spotting makes room for 256 rows in 5 ms and for 1,024 in 131 ms, and keeps the memory; 64 rows take 2 ms. Only
a model that answers rows one by one may be cut. The first dimension of another one may be a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.ports import Arrays, LoadedModel
from fleet.runtimes.models import MAX_BATCH, cut, joined, shapes_of

PIECE = 64  # rows
NEAR = 1e-3  # kernels for several rows may round otherwise than those for one


def may_be_cut(model: LoadedModel, requests: Sequence[Arrays]) -> bool:
    """Tell whether two of these requests, asked together, get the same answers as alone; False without two alike."""
    alike = [request for request in requests if shapes_of(request) == shapes_of(requests[0])][:2]
    if not model.joins or len(alike) < 2:
        return False
    together = cut(model.run(joined(alike)), [len(next(iter(request.values()))) for request in alike])
    alone = [model.run(request) for request in alike]  # last, so that an interpreter has room for a usual request
    return all(
        one[name].shape == other[name].shape and np.allclose(one[name], other[name], NEAR, NEAR, equal_nan=True)
        for one, other in zip(alone, together, strict=True)
        for name in one
    )


def run(model: LoadedModel, inputs: Arrays) -> Arrays:
    """The answer of a model that may be cut: `PIECE` rows at a time where there are more.

    What the model would refuse as a whole (more rows than any takes, inputs that disagree about them) goes to it whole.
    """
    rows = len(next(iter(inputs.values())))
    if not PIECE < rows <= MAX_BATCH or any(len(array) != rows for array in inputs.values()):
        return model.run(inputs)
    kind = type(inputs)  # `Ready` inputs stay ready
    answers = [
        model.run(kind({name: array[start : start + PIECE] for name, array in inputs.items()}))
        for start in range(0, rows, PIECE)
    ]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
