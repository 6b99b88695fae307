"""The cloud endpoint: Open Inference Protocol calls with a deadline, off the event loop.

Calls run in a small pool of threads that sleep in the socket, so the local path never meets them.
When all are busy with slow calls, new ones are refused at once instead of queueing past their deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from edge_agent.errors import AgentError, LateError, UnreachableError
from edge_agent.ports import HubCalls
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError

CALLS = 8  # at a time
MARGIN_S = 0.5  # the socket gives up this much later than the request did


class CloudError(AgentError):
    """The cloud answered with an error; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, subject="cloud")
        self.status = status


class Cloud(Protocol):
    """Somebody who answers inference requests elsewhere."""

    async def infer(
        self, model: str, version: int | None, request: oip.InferRequest, timeout_s: float
    ) -> oip.InferResponse:
        """Answer within `timeout_s`; raises LateError, UnreachableError or CloudError."""


class HubCloud:
    """The hub's `/v2` endpoint with the device's token."""

    def __init__(self, hub: HubCalls) -> None:
        self._hub = hub
        self._pool = ThreadPoolExecutor(CALLS, thread_name_prefix="cloud")
        self._busy = 0

    async def infer(
        self, model: str, version: int | None, request: oip.InferRequest, timeout_s: float
    ) -> oip.InferResponse:
        """Send binary tensors and read binary tensors.

        Raises:
            LateError: no answer in time. UnreachableError: no connection, or all calls are busy.
            CloudError: an error answer, or one that does not decode.
        """
        if self._busy >= CALLS:
            raise UnreachableError(f"{CALLS} calls to the cloud are waiting already", subject="cloud")
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version is not None else "") + "/infer"
        loop = asyncio.get_running_loop()
        self._busy += 1
        future = loop.run_in_executor(self._pool, self._call, path, request, timeout_s + MARGIN_S)
        future.add_done_callback(self._done)
        try:
            # Shielded: a late call keeps its thread and its place until the socket gives up.
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise LateError(f"the cloud did not answer in {timeout_s:.3f} s", subject=model) from error

    def close(self) -> None:
        """Let running calls end without waiting for them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, future: asyncio.Future[oip.InferResponse]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # a late failure has nobody left to hear it

    def _call(self, path: str, request: oip.InferRequest, timeout_s: float) -> oip.InferResponse:
        body, length = oip.encode_request(request, binary=True)
        headers = {"content-type": "application/octet-stream"}
        if length is not None:
            headers[oip.HEADER] = str(length)
        answer = self._hub.request("POST", path, body, headers, timeout=timeout_s)
        if answer.status != 200:
            text = answer.data[:300].decode("utf-8", "replace")
            raise CloudError(f"the cloud answered {answer.status}: {text}", status=answer.status)
        try:
            return oip.decode_response(answer.data, oip.parse_header(_header(answer.headers, oip.HEADER)))
        except ProtocolError as error:
            raise CloudError(f"the cloud's answer does not decode: {error}", status=502) from error


def _header(headers: Mapping[str, Any], name: str) -> str | None:
    for key, value in headers.items():
        if key.lower() == name:
            return str(value)
    return None
