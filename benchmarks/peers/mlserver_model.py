"""MLServer as its users write a runtime: numpy in, numpy out, its own codecs."""

from __future__ import annotations

from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec
from tiny import OUTPUT, answer


class Linear(MLModel):
    """The classifier."""

    async def load(self) -> bool:
        """Nothing to load."""
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """One request."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output(OUTPUT, answer(x))
        return types.InferenceResponse(model_name=self.name, outputs=[output])
