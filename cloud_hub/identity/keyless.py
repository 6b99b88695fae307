"""Substitutes for the keys that an instance for inference does not hold: each use of one is refused."""

from __future__ import annotations

from typing import NoReturn

from cloud_hub.errors import ForbiddenError


def _refuse(what: str) -> NoReturn:
    hint = "ask the hub itself: `cloud-hub serve` without --roles"
    raise ForbiddenError(f"this instance answers inference requests alone and cannot {what}", subject=what, hint=hint)


class NoAuthority:
    """A `ports.Authority` that knows the authority's certificate (PEM) and not its key."""

    def __init__(self, ca_pem: bytes) -> None:
        self.ca_pem = ca_pem

    def device(self, *_: object) -> NoReturn:
        """ForbiddenError."""
        _refuse("certify a device")

    def server(self, *_: object, **__: object) -> NoReturn:
        """ForbiddenError."""
        _refuse("certify a server")

    def hub_client(self, *_: object, **__: object) -> NoReturn:
        """ForbiddenError."""
        _refuse("certify a client of the broker")

    def revocation_list(self, *_: object) -> NoReturn:
        """ForbiddenError."""
        _refuse("sign the list of revoked certificates")


class NoCommandKey:
    """A `ports.CommandKey` without a key."""

    public = b""

    def sign(self, payload: bytes) -> NoReturn:
        """ForbiddenError."""
        _refuse("sign a command")

    def target(self) -> NoReturn:
        """ForbiddenError."""
        _refuse("publish the commands' key")
