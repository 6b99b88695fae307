"""KServe's model server as its users write a predictor: numpy in, numpy out, its own types."""

from __future__ import annotations

import uuid
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from tiny import OUTPUT, answer


class Linear(Model):
    """The classifier."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def load(self) -> bool:
        """Nothing to load."""
        return True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """One request."""
        found = answer(payload.inputs[0].as_numpy())
        output = InferOutput(name=OUTPUT, shape=list(found.shape), datatype="FP32")
        output.set_data_from_numpy(found, binary_data=payload.inputs[0].parameters.get("binary_data_size") is not None)
        return InferResponse(response_id=str(uuid.uuid4()), model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    ModelServer().start([Linear("tiny")])
