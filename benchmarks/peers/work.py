"""The work that every peer does on the same bytes: a request of the Open Inference Protocol with the binary extension
in, its answer out. What our agent does beside it: the release is verified and swappable, the inputs are checked for NaN
and infinity, the confidence is calibrated, each request is counted in windows, sketches and probation, and the body is
bounded by the interface. What a peer leaves out of that, its own file says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

try:
    from orjson import dumps, loads
except ImportError:
    loads = json.loads

    def dumps(value: Any) -> bytes:
        """As orjson's."""
        return json.dumps(value, separators=(",", ":")).encode()


class Work:
    """One interpreter; `answer` is everything between the body of a request and the body of its answer."""

    def __init__(self) -> None:
        data = Path(os.environ["PEER_MODEL"]).read_bytes()
        self.interpreter = Interpreter(model_content=data, num_threads=1)
        self.interpreter.allocate_tensors()
        self.input, self.output = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]

    def answer(self, body: bytes, head: int) -> tuple[bytes, int]:
        """The answer and the length of its JSON; `head` is the length of the request's."""
        asked = loads(body[:head])
        (tensor,) = asked["inputs"]
        if tensor["name"] != "input" or tensor["shape"][1:] != list(self.input["shape"][1:]):
            raise ValueError("no such input")
        x = np.frombuffer(body, self.input["dtype"], offset=head).reshape(tensor["shape"])
        interpreter = self.interpreter
        interpreter.set_tensor(self.input["index"], x)
        interpreter.invoke()
        y = interpreter.get_tensor(self.output["index"])
        scores = y[0].astype(np.float64)
        scores = np.exp(scores - scores.max())
        data = y.tobytes()
        said = dumps(
            {
                "model_name": "model",
                "model_version": "1",
                "parameters": {"served_by": "edge", "confidence": float(scores.max() / scores.sum())},
                "outputs": [
                    {
                        "name": "output",
                        "datatype": tensor["datatype"],
                        "shape": list(y.shape),
                        "parameters": {"binary_data_size": len(data)},
                    }
                ],
            }
        )
        return said + data, len(said)
