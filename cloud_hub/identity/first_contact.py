"""Serves what a device checks before it sends a secret: the first root and the CA, which its claim token pins."""

from __future__ import annotations

from cloud_hub.context import Hub
from cloud_hub.identity.ca import pin
from cloud_hub.trust.transaction import METADATA
from fleet.protocol.messages import TrustBundle

FIRST_ROOT = METADATA + "1.root.json"


def trust_bundle(hub: Hub) -> TrustBundle:
    """The first root and the CA's certificate (PEM)."""
    return TrustBundle(root=hub.objects.get(FIRST_ROOT).data, ca=hub.authority.ca_pem)


def claim_pin(hub: Hub) -> str:
    """Compute what claim tokens of this hub pin: the hash of the bundle."""
    bundle = trust_bundle(hub)
    return pin(bundle.root, bundle.ca)
