"""KServe's own client asks a server of ours: health, readiness and an answer, as JSON on the standard output."""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str, token: str) -> dict[str, object]:
    """Ask the server, and return its answers."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    client = InferenceRESTClient(RESTConfig(protocol="v2", transport=httpx.AsyncHTTPTransport(verify=False)))
    tensor = InferInput("input", [2, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((2, 4), np.float32), binary_data=False)
    answer = await client.infer(url, InferRequest("tiny", [tensor]), headers=headers, model_name="tiny")
    return {
        "live": await client.is_server_live(url, headers=headers),
        "ready": await client.is_server_ready(url, headers=headers),
        "model": await client.is_model_ready(url, "tiny", headers=headers),
        "answer": np.asarray(answer.outputs[0].as_numpy()).ravel().tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*[*sys.argv[1:], ""][:2]))))
