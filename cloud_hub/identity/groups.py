"""Opaque group ids: the hub evaluates labels and tells each device only its own groups.

A label `site=berlin` is the group `g-<16 hex of HMAC-SHA256(secret, "site=berlin")>`, so that a channel
document, which every device of the channel reads, names no customer's labels.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping


def group_id(secret: bytes, key: str, value: str) -> str:
    """Return the group of one label.

    Args:
        secret: of the hub's groups; without it nobody can tell labels from ids.
        key: of the label.
        value: of the label.
    """
    return "g-" + hmac.new(secret, f"group:{key}={value}".encode(), hashlib.sha256).hexdigest()[:16]


def group_ids(secret: bytes, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The groups of a device with these labels, sorted."""
    return tuple(sorted(group_id(secret, key, value) for key, value in labels.items()))
