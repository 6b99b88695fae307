"""Asking a hub's models, for an application: answers that are fetched later."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fleet.api.inference import AsyncInference
from fleet.client.calls import UPLOAD_TIMEOUT_S, Calls, check_answer, path_of
from fleet.errors import TimedOutError

if TYPE_CHECKING:
    from fleet.protocol import oip
    from fleet.protocol.tensors import AnyArray

POLL_S = 1.0


class InferenceCalls(Calls):
    """Calls of an application, or of an operator who may ask models."""

    def infer_later(
        self,
        model: str,
        inputs: Mapping[str, AnyArray],
        *,
        version: str = "",
        parameters: Mapping[str, bool | int | float | str] | None = None,
    ) -> AsyncInference:
        """Hand in a request that the hub answers when it has time.

        Args:
            inputs: arrays by name, as the model's metadata has them.
            version: a release's number; by default the newest one of now.
            parameters: the request's; a `timeout` counts from when it is run.
        """
        from fleet.protocol import oip

        values = tuple(oip.TensorValue(name, array) for name, array in inputs.items())
        request = oip.InferRequest(inputs=values, parameters=dict(parameters or {}), binary_outputs=oip.ALL)
        body, head = oip.encode_request(request)
        path = _path(model, version) + "/infer_async"
        headers = {oip.HEADER: str(head), "content-type": "application/octet-stream"}
        return self._read(
            self._fetch("POST", path, body, headers=headers, timeout=UPLOAD_TIMEOUT_S), path, AsyncInference
        )

    def later(self, asked: AsyncInference) -> AsyncInference:
        """Read the state of a request."""
        path = _later(asked)
        return self._read(self._fetch("GET", path), path, AsyncInference)

    def answer(self, asked: AsyncInference) -> oip.InferResponse | None:
        """The answer; None while there is none. Raises what the hub refuses the request with."""
        from fleet.protocol import oip

        path = _later(asked) + "/result"
        found = self._fetch("GET", path, timeout=UPLOAD_TIMEOUT_S)
        check_answer(found, path)
        if found.status == 202:
            return None
        return oip.decode_response(found.body, oip.parse_header(found.headers.get(oip.HEADER)))

    def wait(
        self,
        asked: AsyncInference,
        *,
        timeout_s: float,
        every_s: float = POLL_S,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> oip.InferResponse:
        """Wait for the answer to a request, and return it.

        Args:
            asked: the request.
            timeout_s: seconds to wait in all.
            every_s: seconds between two looks.
            sleep: pauses between looks.
            now: monotonic, seconds.

        Raises:
            TimedOutError: no answer came in time.
        """
        until = now() + timeout_s
        while (found := self.answer(asked)) is None:
            if now() >= until:
                raise TimedOutError(f"no answer to {asked.id} in {timeout_s:g} s", subject=asked.id)
            sleep(every_s)
        return found

    def forget(self, asked: AsyncInference) -> AsyncInference:
        """Delete a request and its answer; the hub does so by itself at `expires_at`."""
        path = _later(asked)
        return self._read(self._fetch("DELETE", path), path, AsyncInference)


def _path(model: str, version: str = "") -> str:
    return "/v2" + (path_of("models", model, "versions", version) if version else path_of("models", model))


def _later(asked: AsyncInference) -> str:
    return _path(asked.model) + path_of("infer_async", asked.id)
