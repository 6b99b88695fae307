"""Servers that are asked with tensors as bytes until they refuse them, and with JSON, or typed values, from then on."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from edge_agent.ports import Credential
from edge_agent.serving.cloud import Carried, CloudError
from edge_agent.serving.credentials import authorization
from fleet.protocol import oip
from fleet.protocol.channel import Remote


class BinaryFirstServer(ABC):
    """Implements `Cloud` for a server that a channel names; calls run in `threads`.

    A request that is refused as bytes is asked again in the time that is left. A server that has answered one can read
    them: what it refuses later is the request's fault.
    """

    NOT_BINARY: ClassVar[tuple[int, ...]]  # statuses that servers answer to tensors as bytes

    def __init__(
        self,
        remote: Remote,
        credential: Credential | None,
        threads: ThreadPoolExecutor,
        count: Callable[[int, int], None] = lambda up, down: None,
        carried: Carried = dict,
    ) -> None:
        self._carried = carried
        self._remote, self._credential, self._threads, self._count = remote, credential, threads, count
        self._binary, self._proven = remote.binary, False

    async def infer(
        self, model: str, version: int | None, request: oip.InferRequest, timeout_s: float
    ) -> oip.InferResponse:
        """See `Cloud`; `version` is the hub's own numbering, which other servers do not know."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._infer, model, request, timeout_s, self._carried())

    def _infer(
        self, model: str, request: oip.InferRequest, timeout_s: float, carried: dict[str, str]
    ) -> oip.InferResponse:
        until = time.monotonic() + timeout_s
        headers = {**carried, **authorization(self._remote, self._credential)}
        if not self._binary:
            return self._ask(model, request, headers, timeout_s, binary=False)
        try:
            answer = self._ask(model, request, headers, timeout_s, binary=True)
        except CloudError as error:
            left = until - time.monotonic()
            if self._proven or error.status not in self.NOT_BINARY or left <= 0:
                raise
            answer = self._ask(model, request, headers, left, binary=False)
            self._binary = False
            return answer
        self._proven = True
        return answer

    @abstractmethod
    def _ask(
        self, model: str, request: oip.InferRequest, headers: dict[str, str], timeout_s: float, *, binary: bool
    ) -> oip.InferResponse:
        """Ask once.

        Args:
            model: as the device calls it.
            request: as the application sent it.
            headers: that go with it, by name.
            timeout_s: seconds.
            binary: with tensors as bytes.

        Raises:
            UnreachableError: no answer within about `timeout_s`. CloudError: an answer that is an error, or none that
                can be read, or a request that cannot be written.
        """
