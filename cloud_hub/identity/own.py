"""The hub's own certificates, renewed when it starts: a fleet must not end because nobody thought of a date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from cloud_hub.config import HubConfig
from cloud_hub.identity.ca import Authority, KeyAndCertificate
from cloud_hub.trust.keys import write_private


def renew_own(config: HubConfig, now: float) -> tuple[str, ...]:
    """Renew what has lived for half of its life, the server's and the hub's own client certificate.

    Their keys stay, so that each renewal is one file that is replaced. Returns the files' names.
    """
    authority = Authority(KeyAndCertificate((config.keys_dir / "ca.key").read_bytes(), config.ca_file.read_bytes()))
    pairs: tuple[tuple[Path, Path, Callable[[bytes], KeyAndCertificate]], ...] = (
        (config.server_certificate, config.server_key, lambda key: authority.server(config.hostnames, now, key=key)),
        (config.client_certificate, config.client_key, lambda key: authority.hub_client(now, key=key)),
    )
    renewed = []
    for certificate, key, make in pairs:
        if certificate.exists() and _past_half(certificate.read_bytes(), now):
            write_private(certificate, make(key.read_bytes()).certificate, replace=True)
            renewed.append(certificate.name)
    return tuple(renewed)


def _past_half(pem: bytes, now: float) -> bool:
    certificate = x509.load_pem_x509_certificate(pem)
    starts, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return now > (starts + ends) / 2
