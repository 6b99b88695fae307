"""A server's account of the models that it has, as Triton's clients ask for it: index and configuration.

Source: https://github.com/triton-inference-server/server, `docs/protocol/extension_model_repository.md` and
`extension_model_configuration.md`. The fleet decides which release serves, so nothing is loaded or unloaded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from fleet.protocol.codec import decode_json
from fleet.protocol.tensor_spec import Tensor

READY, UNAVAILABLE = "READY", "UNAVAILABLE"
INDEX_BODY = 64 << 10  # bytes of a request for the index


class IndexRequest(Struct):
    """`ready`: only what can be asked now. There is one repository; a name for it (as KServe's clients send) is read
    and means nothing."""

    ready: bool | None = None
    repository_name: str | None = None


def decode_index_request(body: bytes) -> IndexRequest:
    """The body of `POST /v2/repository/index`; an empty one asks for everything.

    Raises:
        TooLargeError: more than INDEX_BODY bytes. MalformedError: it is no such request.
    """
    return decode_json(body, IndexRequest, limit=INDEX_BODY, subject="index") if body else IndexRequest()


def index_entry(name: str, version: str = "", reason: str = "") -> dict[str, Any]:
    """Return a line of the index; with a `reason` the model cannot be asked by this version here.

    Args:
        name: of the model.
        version: of the release; empty where none is ready.
        reason: why it cannot be asked; empty where it can.
    """
    return {"name": name, "version": version, "state": UNAVAILABLE if reason else READY, "reason": reason}


def model_config(
    name: str, platform: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], versions: Sequence[int], rows: int
) -> dict[str, Any]:
    """The body of `GET /v2/models/{name}/config`, as far as it is the server's business.

    Args:
        platform: as in the metadata; the backend is what it begins with.
        versions: those that can be asked.
        rows: how many rows may run together at the most.

    A dimension that all tensors have in front, of any size, is the batch: `max_batch_size` is above 0 then, and `dims`
    are without it.
    """
    batched = all(tensor.batched for tensor in (*inputs, *outputs))
    return {
        "name": name,
        "platform": platform,
        "backend": platform.partition("_")[0],
        "version_policy": {"specific": {"versions": list(versions)}},
        "max_batch_size": rows if batched else 0,
        "input": [_described(tensor, batched) | {"format": "FORMAT_NONE"} for tensor in inputs],
        "output": [_described(tensor, batched) | {"label_filename": ""} for tensor in outputs],
    }


def _described(tensor: Tensor, batched: bool) -> dict[str, Any]:
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{kind}", "dims": list(tensor.row if batched else tensor.shape)}
