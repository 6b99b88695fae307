"""Takes the hub's commands off the wire: each is verified, counted on the disk, and only then acts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from edge_agent.errors import DeniedError
from edge_agent.mqtt.command_verification import COUNTER, Verifier
from edge_agent.mqtt.spool_sender import SpoolSender
from edge_agent.mqtt.trails import NOTHING
from edge_agent.telemetry.database import LAST_COMMAND
from edge_agent.telemetry.spool import Spool
from fleet.protocol.messages import Command, Receipt
from fleet.tracing import OFF, Tracer


class CommandReceiver:
    """Lets receipts free the spool, and hands every other command on."""

    def __init__(
        self,
        spool: Spool,
        sender: SpoolSender,
        verifier: Verifier,
        handle: Callable[[Command], None],
        *,
        counter: int,
        tracer: Tracer = OFF,
    ) -> None:
        """Take commands with a number above `counter`.

        Args:
            spool: keeps the number, and lets go what a receipt covers.
            sender: goes on after a receipt.
            verifier: says whether a command is the hub's.
            handle: carries out a command that is no receipt; does not wait. It is called in the command's trace.
            counter: the number of the last command (`counter_of`).
            tracer: reads the trace of a command from what its message carried.
        """
        self._spool, self._sender, self._verifier, self._handle = spool, sender, verifier, handle
        self._counter, self._tracer = counter, tracer

    async def take(self, payload: bytes, device: str, carried: Mapping[str, str] = NOTHING) -> None:
        """Verify a command, keep its number, and let it act.

        Args:
            payload: the command as it came.
            device: for which it has to be.
            carried: names the trace that it belongs to; empty without one.

        Raises:
            DeniedError: it is not the hub's, not for this device, or not new.
            SpoolError: its number cannot be kept; it has not acted.
        """
        command = await asyncio.to_thread(self._verifier.accept, payload, device, self._counter)
        receipt = _receipt(command)
        upto = await self._sender.covered(receipt) if receipt is not None else 0
        # The counter is durable before the command acts, in one step with what a receipt deletes.
        kept = {COUNTER: str(command.counter), LAST_COMMAND: payload.decode(errors="replace")}
        await asyncio.to_thread(self._spool.commit, upto, kept)
        self._counter = command.counter
        if receipt is not None:
            self._sender.receipted(upto, time.monotonic())
        else:
            with self._tracer.following(carried):
                self._handle(command)


def _receipt(command: Command) -> Receipt | None:
    if command.kind != "receipt":
        return None
    try:
        return msgspec.convert(command.args, Receipt)
    except msgspec.ValidationError as error:
        raise DeniedError(f"a receipt does not decode: {error}", subject=command.id) from error
