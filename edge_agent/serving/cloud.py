"""The cloud endpoint: Open Inference Protocol calls off the event loop.

Calls run in a small pool of threads that sleep in the socket, so the local path never meets them. Who may call,
and how long a request waits for that, is `endpoint`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from edge_agent.errors import AgentError
from edge_agent.ports import HubCalls
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError

Carried = Callable[[], dict[str, str]]
CALLS = 16  # at a time: with 20 ms each, 800 a second
BUSY = (429, 503)  # with Retry-After these say "not now", not "never"
RETRY_S, MOST_RETRY_S = (
    1.0,
    60.0,
)  # how long a busy endpoint is left alone that names no time; that names too long a one


class CloudError(AgentError):
    """The cloud answered with an error; `status` is the HTTP status.

    `retry_after_s`: it is too busy and says when to come back, in seconds; None for every other error.
    """

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message, subject="cloud")
        self.status = status
        self.retry_after_s = retry_after_s


class Cloud(Protocol):
    """Somebody who answers inference requests elsewhere."""

    async def infer(
        self, model: str, version: int | None, request: oip.InferRequest, timeout_s: float
    ) -> oip.InferResponse:
        """Ask the cloud; return or raise when nothing of the call is left, even where that is after `timeout_s`.

        Args:
            model: the model's name.
            version: the release of the hub that shall answer; None for its default.
            request: as the application sent it.
            timeout_s: seconds.

        Raises:
            UnreachableError: no answer within about `timeout_s`.
            CloudError: an answer that is an error.
        """


class HubCloud:
    """The hub's `/v2` endpoint with the device's token; at most `calls` at a time, further ones wait for a thread.

    `carried` gives headers that every call has besides, in the caller's context: those of its trace.
    """

    def __init__(self, hub: HubCalls, calls: int = CALLS, carried: Carried = dict) -> None:
        self._hub, self._carried = hub, carried
        self._pool = ThreadPoolExecutor(calls, thread_name_prefix="cloud")

    async def infer(
        self, model: str, version: int | None, request: oip.InferRequest, timeout_s: float
    ) -> oip.InferResponse:
        """Send binary tensors and read binary tensors.

        Raises:
            UnreachableError: `timeout_s` of silence. CloudError: an error answer, or one that does not decode.
        """
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version is not None else "") + "/infer"
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._call, path, request, timeout_s, self._carried())

    def close(self) -> None:
        """Let running calls end without waiting for them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _call(
        self, path: str, request: oip.InferRequest, timeout_s: float, carried: dict[str, str]
    ) -> oip.InferResponse:
        body, length = oip.encode_request(request, binary=True)
        headers = {"content-type": "application/octet-stream", **carried}
        if length is not None:
            headers[oip.HEADER] = str(length)
        answer = self._hub.request("POST", path, body, headers, timeout=timeout_s)
        if answer.status != 200:
            raise cloud_error("the cloud", answer.status, answer.data, answer.headers)
        try:
            return oip.decode_response(answer.data, oip.parse_header(_header(answer.headers, oip.HEADER)))
        except ProtocolError as error:
            raise CloudError(f"the cloud's answer does not decode: {error}", status=502) from error


def cloud_error(who: str, status: int, data: bytes, headers: Mapping[str, Any]) -> CloudError:
    """Return the error for an answer that is one, with its time to come back where it names that.

    Args:
        who: the server, for the message.
        status: of HTTP.
        data: the body.
        headers: by name.
    """
    return CloudError(
        f"{who} answered {status}: {data[:300].decode('utf-8', 'replace')}",
        status=status,
        retry_after_s=_retry_after(status, _header(headers, "retry-after")),
    )


def _retry_after(status: int, value: str | None) -> float | None:
    """Seconds to leave a busy endpoint alone; None for an error that says no such thing.

    A date is not read, since it would be held against this device's clock.
    """
    if status not in BUSY or (status == 503 and value is None):
        return None
    value = (value or "").strip()
    named = value.isascii() and value.isdigit() and len(value) < 10
    return min(max(float(value), 0.0), MOST_RETRY_S) if named else RETRY_S


def _header(headers: Mapping[str, Any], name: str) -> str | None:
    for key, value in headers.items():
        if key.lower() == name:
            return str(value)
    return None
