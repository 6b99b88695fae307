"""Is this command from our hub, for this device, new and in time? Values in, verdict out.

The command key is a TUF target (`hub/command-key.json`), so neither the broker nor the transport is trusted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from edge_agent.errors import DeniedError, SpoolError
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol.codec import decode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import CONTROL_LIMIT, Command, CommandKeys, Signed, decode_control

COUNTER, COUNTED = "command-counter", "command-counter-of"  # facts: the last command's number, and whose it is


def decode_keys(data: bytes) -> CommandKeys:
    """Decode `hub/command-key.json`; raises MalformedError."""
    return decode_json(data, CommandKeys, limit=CONTROL_LIMIT, subject="hub/command-key.json")


def verified_command(
    data: bytes,
    keys: CommandKeys | None,
    *,
    verify: Callable[[bytes, bytes, bytes], bool],
    device: str,
    counter: int,
    now: float,
    clock_trusted: bool = True,
) -> Command:
    """The command in `data` when every check holds.

    Args:
        data: a `messages.Signed` as JSON.
        keys: None while the device has not fetched it yet.
        verify: `ports.Signer.verify`.
        counter: the last counter that was accepted.

    Raises:
        DeniedError: no key, a wrong signature, another device, an old counter, or expired.
    """
    if keys is None:
        raise DeniedError("the hub's command key is not here yet", subject="command")
    try:
        signed: Signed = decode_control(data, Signed)
        if signed.key_id not in keys.keys:
            raise DeniedError(f"command signed by unknown key {signed.key_id[:16]!r}", subject="command")
        if not verify(bytes.fromhex(keys.keys[signed.key_id]), signed.signature, signed.payload):
            raise DeniedError("a command's signature is wrong", subject="command")
        command: Any = decode_control(signed.payload, Command)
    except (ProtocolError, ValueError) as error:
        raise DeniedError(f"a command does not decode: {error}", subject="command") from error
    assert isinstance(command, Command)
    if command.device != device:
        raise DeniedError(f"a command for device {command.device!r} arrived here", subject=command.id)
    if command.counter <= counter:
        raise DeniedError(f"command counter {command.counter} is not above {counter}", subject=command.id)
    if clock_trusted and now > command.expires_at:
        raise DeniedError(f"command {command.id} expired {now - command.expires_at:.0f} s ago", subject=command.id)
    return command


def counter_of(device_id: str, database: Database, spool: Spool) -> int:
    """Return the number of the last command; 0 for a device that was enrolled anew, to which its hub counts anew.

    An agent of 0.1 did not record whose number it keeps: it belongs to the first one that starts.

    Args:
        device_id: as it is enrolled now.
        database: of the agent.
        spool: where agents of 0.1 kept the number.
    """
    counter = database.fact(COUNTER, "0") if database.fact(COUNTED) in ("", device_id) else "0"
    with contextlib.suppress(SpoolError):  # a full disk: said again at the next start
        spool.keep({COUNTED: device_id, COUNTER: counter})
    return int(counter)


class Verifier:
    """Accepts commands by what the device knows now of key and time."""

    def __init__(
        self,
        key: Callable[[], CommandKeys | None],
        verify: Callable[[bytes, bytes, bytes], bool],
        *,
        clock: Callable[[], float] = time.time,
        clock_trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Ask for key and time at every command.

        Args:
            key: gives the hub's command keys; None while the device has not fetched them yet.
            verify: `ports.Signer.verify`.
            clock: seconds since 1970.
            clock_trusted: whether a command may expire by that clock.
        """
        self._key, self._verify, self._clock, self._clock_trusted = key, verify, clock, clock_trusted

    def accept(self, payload: bytes, device: str, counter: int) -> Command:
        """Accept a command for `device` with a number above `counter`; blocks. Raises as `verified_command` does."""
        return verified_command(
            payload,
            self._key(),
            verify=self._verify,
            device=device,
            counter=counter,
            now=self._clock(),
            clock_trusted=self._clock_trusted(),
        )
