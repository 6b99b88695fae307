"""A runtime in memory; it implements `edge_agent.ports.Runtime` and passes the same contract test."""

from __future__ import annotations

import numpy as np

from edge_agent.errors import ModelLoadError
from fleet.protocol.manifest import Manifest, Variant
from tests.support.models import answer


class FakeRuntime:
    """Answers like `tests.support.models`. Model bytes steer it: `broken` does not load, `failing`
    loads and fails every run, `swapped` exchanges the first two classes, `nan` answers NaN."""

    name = "fake"
    version = "1"

    def __init__(self) -> None:
        self.loaded: list[FakeModel] = []

    def load(self, model: bytes, manifest: Manifest, variant: Variant) -> FakeModel:
        if model.startswith(b"broken"):
            raise ModelLoadError(f"fake refuses variant {variant.name!r}")
        self.loaded.append(FakeModel(model))
        return self.loaded[-1]


class FakeModel:
    joins = False

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.closed = False
        self.runs = 0

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.closed:
            raise RuntimeError("the model was closed")
        self.runs += 1
        if self.model.startswith(b"failing"):
            raise RuntimeError("failing on purpose")
        logits = answer(inputs["input"])
        if self.model.startswith(b"nan"):
            logits[-1, -1] = np.nan
        return {"logits": logits[:, [1, 0, 2]] if self.model.startswith(b"swapped") else logits}

    def close(self) -> None:
        self.closed = True
