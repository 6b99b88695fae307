"""The metadata that devices hold of a hub that lived before a restore: bounded, checked, and lifted above.

A device sends it when the hub serves older signed metadata than it has. After the first one the hub has risen, and the
others look again instead: so they are read one at a time, and one device's at most once in `EVERY_S` seconds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloud_hub.context import Hub
from cloud_hub.errors import BusyError, RateError
from cloud_hub.store.tables import Device
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import CONTROL_LIMIT, HELD_LIMIT, Command, Held, Signed, decode_control

EVERY_S = 10.0
REMEMBERED = 10_000  # devices whose last time is kept
MOST_COUNTER = 1 << 62


class HeldIntake:
    """One per process; thread-safe."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._one = threading.Lock()
        self._last: OrderedDict[str, float] = OrderedDict()
        self._guard = threading.Lock()

    def admit(self, device_id: str) -> None:
        """Raise RateError when this device was here a moment ago; before its body is read."""
        now = self._hub.clock()
        with self._guard:
            if abs(now - self._last.get(device_id, -EVERY_S)) < EVERY_S:
                raise RateError(f"device {device_id} has shown what it holds a moment ago", subject=device_id)
            self._last.pop(device_id, None)
            self._last[device_id] = now
            while len(self._last) > REMEMBERED:
                self._last.popitem(last=False)

    def take(self, device_id: str, data: bytes) -> bool:
        """Rise above what the bytes prove; whether that was anything.

        Raises:
            MalformedError, TooLargeError: they are no `Held`. BusyError: another device's are being read.
            ForbiddenError: devices trust newer keys than this hub has.
        """
        held = decode_msgpack(data, Held, limit=HELD_LIMIT, subject="held")
        if not self._one.acquire(blocking=False):
            raise BusyError(
                "another device is showing what it holds", subject="held", hint="look again, then try again"
            )
        try:
            counted = self._lift_counter(device_id, held.command)
            command = self._hub.command_key.target()
            return self._hub.publisher.lift(held, command=command, actor=f"device:{device_id}") or counted
        finally:
            self._one.release()

    def _lift_counter(self, device_id: str, data: bytes) -> bool:
        counter = proven_counter(device_id, data, self._hub.command_key.public)
        if counter is None:
            return False
        with self._hub.session() as session:
            device = session.get(Device, device_id, with_for_update=True)
            if device is None or device.command_counter >= counter:
                return False
            before, device.command_counter = device.command_counter, counter
            session.add(device)
            detail = {"from": before, "to": counter}
            self._hub.audit(session, f"device:{device_id}", "device.lift-counter", device_id, detail)
        return True


def proven_counter(device_id: str, data: bytes, public: bytes) -> int | None:
    """Return the counter of a command that the hub has signed for this device; None when `data` proves none. Pure.

    Args:
        device_id: the device.
        data: a signed command or receipt, as the device has it.
        public: the hub's command key, Ed25519, 32 bytes.
    """
    if not data or len(data) > CONTROL_LIMIT:
        return None
    try:
        signed: Signed = decode_control(data, Signed)
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, signed.payload)
        command: Command = decode_control(signed.payload, Command)
    except (ProtocolError, InvalidSignature, ValueError):
        return None
    mine = command.device == device_id
    return command.counter if mine and 0 < command.counter <= MOST_COUNTER else None
