"""Messages that no device should send, by one with valid credentials. Pure."""

from __future__ import annotations

import msgspec
import numpy as np

from fleet.protocol import topics
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import TELEMETRY_LIMIT, Envelope, ModelReport
from fleet.protocol.telemetry import Window

HUGE = 2**62


def hostile_message(rng: np.random.Generator, device_id: str, spool: str, top: int, prefix: str) -> tuple[str, bytes]:
    """Topic and payload of one of eight kinds: noise, too large, of another device, far ahead, counts beyond reason.

    Args:
        spool, top: of the device's own records, which these must not disturb.
    """
    own = topics.uplink(device_id, "telemetry", prefix)
    other = f"{device_id}-x"
    window = Window(
        model="model",
        release=HUGE,
        variant="v",
        auditor=None,
        started_at=0.0,
        ended_at=1e300,
        counters={"requests": HUGE, "failed": HUGE},
    )
    report = ModelReport(model="m" * 100, state="committed", active=HUGE)
    kinds = [
        (own, rng.bytes(200)),
        (own, b"\xdd\xff\xff\xff\xff" + rng.bytes(20)),  # an array that claims four billion entries
        (own, rng.bytes(TELEMETRY_LIMIT + 1)),
        (own, _envelope(other, spool, top + 1, "window", window)),
        (own, _envelope(device_id, spool, HUGE, "window", window)),
        (own, _envelope(device_id, "x" * 32, 1, "window", window)),
        (topics.uplink(other, "report", prefix), _envelope(other, spool, 1, "model", report)),
        (topics.uplink(device_id, "report", prefix), _envelope(device_id, "y" * 32, 1, "model", report)),
    ]
    return kinds[int(rng.integers(len(kinds)))]


def _envelope(device: str, spool: str, seq: int, kind: str, body: msgspec.Struct) -> bytes:
    raw = msgspec.Raw(encode_msgpack(body))
    return encode_msgpack(Envelope(device=device, spool=spool, seq=seq, base=seq, at=0.0, kind=kind, body=raw))
