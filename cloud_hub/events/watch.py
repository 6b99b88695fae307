"""A watch over keys and certificates that end soon, which nobody else would notice."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from cloud_hub.context import Hub
from cloud_hub.events import outbox
from cloud_hub.events.standing import reminder
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.services.supervisor import Service


class EndsWatch(PeriodicService):
    """Tells what ends soon, 60, 30, 7 and 1 days before: what only a ceremony renews, and the hub's certificates."""

    name = "events-ends"
    EVERY_S = 900.0
    LEASE_S = 2 * EVERY_S

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, self.EVERY_S)

    def look(self) -> None:
        """Look once."""
        config, now = self._hub.config, self._hub.clock()
        roles = self._hub.publisher.expiring(within_days=config.expiry.warn_days)
        files = {path.name: ends_at(path) for path in self._certificates() if path.exists()}
        hint = "run: cloud-hub keys renew DIR --offline-keys DIR2"
        ending = [("key.expiring", role, end, hint) for role, end in roles.items()]
        ending += [("certificate.expiring", name, end, _certificate_hint(name)) for name, end in files.items()]
        found = [(reminder(*each, now), end) for each in ending for end in [each[2]]]
        with self._hub.session() as session:
            for told, end in found:
                if told is not None:
                    event, days = told
                    outbox.record(session, event, now, once=f"{event.kind}:{event.subject}:{int(end)}:{days}")

    def _certificates(self) -> tuple[Path, ...]:
        config = self._hub.config
        own = (config.ca_file, config.server_certificate, config.client_certificate)
        return (*own, Path(config.broker.cert_file)) if config.broker.cert_file else own


def ends_at(path: Path) -> float:
    """Return when a certificate (PEM) ends, in Unix seconds."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


def _certificate_hint(name: str) -> str:
    if name == "ca.pem":
        return "devices trust this authority, and nothing renews it: enrol them at a new hub in time"
    return "restart the hub: its own certificates are renewed at the start"


def services(hub: Hub) -> list[Service]:
    """The services of this module."""
    return [EndsWatch(hub)]
