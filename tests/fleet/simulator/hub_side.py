"""The other side of a simulated device: a broker and hub that answer with signed receipts, without any network."""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol import topics
from fleet.protocol.channel import Audit, Channel, ModelEntry, Probation, RolloutRef, Telemetry
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import (
    Command,
    CommandKeys,
    DeviceMe,
    Envelope,
    Signed,
    decode_body,
    decode_envelope,
)
from fleet.simulator.device import SimulatedDevice
from fleet.simulator.outbox import Send
from fleet.simulator.view import ReleaseFacts, View

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
KEY_ID = hashlib.sha256(PUBLIC).hexdigest()
KEYS = CommandKeys(keys={KEY_ID: PUBLIC.hex()})
START = 1_700_000_000.0


def view(*releases: int, default: int = 1, rollout: RolloutRef | None = None, version: int = 1) -> View:
    """A channel with the model `m`, of which these releases can be installed."""
    entry = ModelEntry(
        release=default, rollout=rollout, probation=Probation(seconds=10.0, requests=5), audit=Audit(auditor=9)
    )
    facts = {
        ("m", number): ReleaseFacts(
            held=HeldRelease(release=number, variant="v", manifest=f"{number:064}"), bytes=20_000
        )
        for number in releases
    }
    channel = Channel(channel="stable", version=version, models={"m": entry}, telemetry=Telemetry(window_s=20.0))
    return View(channel=channel, releases=facts, keys=KEYS, tuf={}, tuf_expires={})


def rollout(release: int = 2, share_ppm: int = 10**6) -> RolloutRef:
    """A rollout from release 1."""
    return RolloutRef(id="r1", attempt=1, release=release, from_release=1, share_ppm=share_ppm, salt="s")


class HubSide:
    """Commits records in order, as the hub does, and answers each batch with a receipt unless it is told to lose it."""

    def __init__(self, device: SimulatedDevice) -> None:
        self.device, self.committed, self.counter = device, 0, 0
        self.spool = ""
        self.bodies: list[Any] = []
        self.statuses: list[bytes] = []
        self.seen: list[Envelope] = []

    def take(self, sends: list[Send], now: float, *, lose_receipt: bool = False) -> None:
        """Take what the device has published."""
        fresh = False
        for send in sends:
            leaf = topics.parse_uplink(send.topic).leaf
            if leaf == "status":
                self.statuses.append(send.payload)
                continue
            envelope = decode_envelope(send.payload)
            self.seen.append(envelope)
            self.spool = envelope.spool
            fresh = True
            if envelope.seq == self.committed + 1:
                self.committed = envelope.seq
                self.bodies.append(decode_body(envelope))
        if fresh and not lose_receipt:
            self.command(now, "receipt", {"spool": self.spool, "committed": self.committed})

    def command(self, now: float, kind: str, args: dict[str, Any], *, device: str = "") -> None:
        """Send a signed command, and take what follows from it."""
        self.counter += 1
        command = Command(
            id=f"c{self.counter}",
            device=device or self.device.id,
            counter=self.counter,
            expires_at=START + now + 3600,
            kind=kind,
            args=args,
        )
        payload = encode_json(command)
        signed = encode_json(Signed(key_id=KEY_ID, payload=payload, signature=KEY.sign(payload)))
        self.take(self.device.heard(topics.command(self.device.id), signed, now), now)

    def run(self, seen: View, until: float, *, begin: float = 0.0, me: DeviceMe | None = None) -> None:
        """Connect at `begin` and let the time pass, in steps of a quarter of a second."""
        me = me or DeviceMe(device_id=self.device.id, channel="stable")
        if not self.device.online:
            self.take(self.device.connected(begin), begin)
        now = begin
        while now <= until:
            if self.device.begins_look(now):
                self.take(self.device.looked(seen, me, now), now)
            self.take(self.device.wake(now), now)
            now += 0.25

    def states(self) -> list[tuple[str, int | None, str]]:
        """The model's reports, as state, active release and reason."""
        return [(body.state, body.active, body.reason) for body in self.bodies if hasattr(body, "state")]

    def windows(self) -> list[Any]:
        """The windows that arrived."""
        return [body for body in self.bodies if hasattr(body, "counters")]
