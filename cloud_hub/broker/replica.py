"""The name that a hub has at its broker: hubs on one database have one each, or they would end each other's connection.

A lone hub is `_hub`. A further one (a replica behind the same load balancer, on a copy of the directory) takes the
lowest name that is free, by a lease in the database that all of them share. The name is the client id, and the common
name of the certificate that the hub makes itself, since Mosquitto takes a client id from there.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from sqlalchemy.exc import SQLAlchemyError

from cloud_hub.context import Hub
from cloud_hub.errors import UnreachableError
from cloud_hub.identity.ca import HUB_IDENTITY
from cloud_hub.services.leases import hold_lease
from cloud_hub.trust.keys import write_private

log = logging.getLogger(__name__)
REPLICAS = 16  # hubs on one database
LEASE_S = 30.0
NAMES = (HUB_IDENTITY, *(f"{HUB_IDENTITY}-{number}" for number in range(1, REPLICAS)))


class Name:
    """A context manager; inside it `text` is this hub's alone, as long as `keep` is called every few seconds."""

    def __init__(self, hub: Hub, now: Callable[[], float] = time.monotonic) -> None:
        self._hub, self._now = hub, now
        self._owner = secrets.token_hex(8)
        self._kept = 0.0
        self.text = ""

    def __enter__(self) -> Name:
        """Take the first name that is free.

        Raises:
            UnreachableError: there are too many hubs on this database.
        """
        free = next((name for name in NAMES if self._hold(name, LEASE_S)), None)
        if free is None:
            hint = "hubs that were killed give their names back after half a minute"
            raise UnreachableError(f"{REPLICAS} hubs use this database", subject="broker", hint=hint)
        self.text, self._kept = free, self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._hold(self.text, 0.0)
        except SQLAlchemyError as away:
            log.warning("the name %s at the broker is given back later: %s", self.text, away)

    def keep(self) -> None:
        """Renew the lease when it is time. A database that is away costs no connection: nobody can take the name.

        Raises:
            UnreachableError: another hub has the name by now.
        """
        if self._now() - self._kept < LEASE_S / 3:
            return
        self._kept = self._now()
        try:
            held = self._hold(self.text, LEASE_S)
        except SQLAlchemyError as away:
            log.warning("the name %s at the broker is renewed later: %s", self.text, away)
            return
        if not held:
            raise UnreachableError(f"another hub has taken the name {self.text} at the broker", subject="broker")

    def certificate(self) -> tuple[Path, Path]:
        """Files of a client certificate with this name, and of its key."""
        config = self._hub.config
        if self.text == HUB_IDENTITY:
            return config.client_certificate, config.client_key
        folder = config.directory / "broker"
        made = self._hub.authority.hub_client(self._hub.clock(), name=self.text)
        paths = folder / f"{self.text}.pem", folder / f"{self.text}.key"
        for path, data in zip(paths, (made.certificate, made.key), strict=True):
            write_private(path, data, replace=True)
        return paths

    def _hold(self, name: str, seconds: float) -> bool:
        with self._hub.session() as session:
            return hold_lease(session, f"broker-name:{name}", self._owner, self._hub.clock(), seconds)
