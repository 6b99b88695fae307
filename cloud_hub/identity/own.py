"""The hub's own certificates, renewed when it starts: no fleet ends because nobody thought of a date or a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from cloud_hub.clock import lies_ahead
from cloud_hub.config import HubConfig
from cloud_hub.identity.ca import Authority, KeyAndCertificate
from cloud_hub.trust.keys import read_held, write_private


def read_authority(config: HubConfig) -> Authority:
    """The hub's certificate authority; NotFoundError when a file of it is missing."""
    key, certificate = (read_held(config.keys_dir, name) for name in ("ca.key", config.ca_file.name))
    return Authority(KeyAndCertificate(key, certificate))


def renew_own(config: HubConfig, now: float) -> tuple[str, ...]:
    """Renew what has lived for half of its life, the server's and the hub's own client certificate.

    The server's is renewed, too, when the hub has an address that it is not valid for: devices trust the authority,
    so a new name costs them nothing. The keys stay, so that each renewal is one file that is replaced; a pair of
    which a file is missing is made anew. Returns the certificates' files' names.

    Raises:
        NotFoundError: a file of the authority is missing.
    """
    authority = read_authority(config)
    names = config.addresses.names
    pairs: tuple[tuple[Path, Path, tuple[str, ...], Callable[[bytes | None], KeyAndCertificate]], ...] = (
        (config.server_certificate, config.server_key, names, lambda key: authority.server(names, now, key=key)),
        (config.client_certificate, config.client_key, (), lambda key: authority.hub_client(now, key=key)),
    )
    renewed = []
    for certificate, key, wanted, make in pairs:
        if not (certificate.exists() and key.exists()):
            made = make(None)
            write_private(key, made.key, replace=True)
        elif _is_due(certificate.read_bytes(), wanted, now):
            made = make(key.read_bytes())
        else:
            continue
        write_private(certificate, made.certificate, replace=True)
        renewed.append(certificate.name)
    return tuple(renewed)


def _is_due(pem: bytes, wanted: tuple[str, ...], now: float) -> bool:
    """Return whether a certificate is past half of its life, not valid yet, or not valid for all the `wanted` names."""
    certificate = x509.load_pem_x509_certificate(pem)
    starts, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    begins = lies_ahead(starts, now)  # a clock that ran ahead has issued it: nobody takes it yet
    return now > (starts + ends) / 2 or begins or not valid_for(certificate) >= set(wanted)


def valid_for(certificate: x509.Certificate) -> set[str]:
    """The names and addresses in a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return addresses | set(names.get_values_for_type(x509.DNSName))
