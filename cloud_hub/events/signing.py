"""Signatures of webhooks, as https://www.standardwebhooks.com has them (symmetric, `v1`). Pure.

The signature is HMAC-SHA256 over `id.timestamp.body`; a receiver compares it, and refuses timestamps of minutes ago.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64  # bytes, by the specification


def read_secret(text: str) -> bytes:
    """The key in `whsec_` and base64; ValueError with what is wrong, and never with the secret."""
    encoded = text.strip().removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the secret is not base64; make one: echo whsec_$(openssl rand -base64 32)") from None
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"the secret has {len(key)} bytes, it needs {SHORTEST} to {LONGEST}")
    return key


def sign(key: bytes, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that go with `body`; `timestamp` in Unix seconds is that of this try.

    Args:
        key: of the target.
        event_id: the event's.
        timestamp: Unix seconds of this try.
        body: the bytes that are sent.
    """
    signed = b".".join((event_id.encode(), str(timestamp).encode(), body))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": event_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}
