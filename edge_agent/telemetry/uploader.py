"""Samples to the hub: idempotent batches over HTTPS, deleted only when the receipt names them."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from edge_agent.errors import AgentError
from edge_agent.identity.http import read_answer
from edge_agent.ports import HubCalls
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.samples import SampleStore
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import SampleReceipt

log = logging.getLogger(__name__)

POLL_S = 60.0
FIRST_PAUSE_S = 2.0
MAX_PAUSE_S = 300.0


class Uploader:
    """Sends what the store holds, oldest first, while the day's byte budget lasts."""

    def __init__(self, hub: HubCalls, store: SampleStore, budget: Budget) -> None:
        self._hub = hub
        self._store = store
        self._budget = budget
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There are new samples, or the hub is back."""
        self._wake.set()

    async def run(self) -> None:
        """Upload until cancelled; after a failure wait, twice as long each time."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                more = await asyncio.to_thread(self.upload)
            except (AgentError, ProtocolError) as error:
                log.info("samples stay here for %.0f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                self._wake.clear()

    def upload(self) -> bool:
        """Send one batch; true when there may be more to send now.

        Raises:
            AgentError: the hub does not answer, or no receipt, or refuses.
        """
        ids, body = self._store.batch()
        if not ids or not self._budget.allows(len(body)):
            return False
        answer = self._hub.request(
            "POST", "/device/samples", body, {"content-type": "application/msgpack"}, timeout=60.0
        )
        self._budget.count(up=len(body), down=len(answer.data))
        if answer.status != 200:
            text = answer.data[:200].decode("utf-8", "replace")
            raise AgentError(f"the hub answered {answer.status} to a batch of {len(ids)} samples: {text}")
        receipt = read_answer(answer.data, SampleReceipt, "/device/samples")
        known = tuple(set(receipt.committed) & set(ids))
        if not known:
            raise AgentError(f"the hub took none of {len(ids)} samples")
        self._store.delete(known)
        return True
