"""The hub's own certificate authority (EC P-256): one server certificate, and one per device."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_hub.errors import InvalidError
from cloud_hub.ports import HUB_IDENTITY as HUB_IDENTITY
from cloud_hub.ports import Issued as Issued
from cloud_hub.ports import KeyAndCertificate as KeyAndCertificate

CA_DAYS = 3650
SERVER_DAYS = 825
_BACKDATE = datetime.timedelta(hours=1)  # a device's clock may be a little behind


def create_authority(now: float) -> KeyAndCertificate:
    """A new self-signed CA, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Edgeloop hub CA")])
    builder = _builder(name, name, key.public_key(), now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return KeyAndCertificate(_key_pem(key), _pem(builder.sign(key, hashes.SHA256())))


class Authority:
    """Issues certificates under the hub's CA."""

    def __init__(self, ca: KeyAndCertificate) -> None:
        key = serialization.load_pem_private_key(ca.key, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # written by create_authority
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(ca.certificate)
        self.ca_pem = ca.certificate

    def server(self, hostnames: tuple[str, ...], now: float, *, key: bytes | None = None) -> KeyAndCertificate:
        """Make a server key (PEM; a new one by default) and certificate for `hostnames`, localhost, 127.0.0.1 and
        ::1.

        Args:
            hostnames: names and addresses beside those of loopback.
            now: Unix seconds from which it holds.
            key: PEM; None for a new one.
        """
        private = _key(key)
        names = tuple(dict.fromkeys((*hostnames, "localhost", "127.0.0.1", "::1")))
        builder = self._leaf(names[0], private.public_key(), now, SERVER_DAYS, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
        return KeyAndCertificate(_key_pem(private), self._sign(builder))

    def hub_client(
        self, now: float, *, key: bytes | None = None, name: str = HUB_IDENTITY, days: float = SERVER_DAYS
    ) -> KeyAndCertificate:
        """Make the hub's own client key (PEM; a new one by default) and certificate for its broker.

        Args:
            now: Unix seconds from which it holds.
            key: PEM; None for a new one.
            name: the MQTT name that it gives.
            days: it holds so long.
        """
        private = _key(key)
        builder = self._leaf(name, private.public_key(), now, days, ExtendedKeyUsageOID.CLIENT_AUTH)
        return KeyAndCertificate(_key_pem(private), self._sign(builder))

    def device(self, device_id: str, public_key: ec.EllipticCurvePublicKey, now: float, days: float) -> Issued:
        """Make a client certificate whose only name is the device id, chosen by the hub and not by the request.

        Args:
            device_id: the only name in it.
            public_key: the device's.
            now: Unix seconds from which it holds.
            days: it holds so long.
        """
        builder = self._leaf(device_id, public_key, now, days, ExtendedKeyUsageOID.CLIENT_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(device_id)]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        expires = certificate.not_valid_after_utc.timestamp()
        return Issued(_pem(certificate).decode(), format(certificate.serial_number, "x"), expires)

    def revocation_list(self, serials: tuple[str, ...], now: float) -> bytes:
        """A certificate revocation list (PEM) of hex `serials`, valid for 30 days."""
        moment = _moment(now)
        builder = x509.CertificateRevocationListBuilder(
            self._certificate.subject, moment - _BACKDATE, moment + datetime.timedelta(days=30)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(int(serial, 16), moment).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _leaf(
        self, name: str, key: ec.EllipticCurvePublicKey, now: float, days: float, usage: x509.ObjectIdentifier
    ) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        builder = _builder(subject, self._certificate.subject, key, now, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(ca=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(issuer, critical=False)

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return _pem(builder.sign(self._key, hashes.SHA256()))


def read_request(csr: str) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a PEM certificate request that proves it holds the key. Its names are ignored.

    Raises:
        InvalidError: not a request, another kind of key, or a wrong signature.
    """
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key, valid = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnicodeEncodeError, InvalidSignature) as error:
        raise InvalidError(
            "the certificate request cannot be read", subject="csr", hint="send a PEM PKCS#10 request"
        ) from error
    if not valid:
        raise InvalidError("the certificate request is not signed by its own key", subject="csr")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidError("the device key must be EC P-256", subject="csr", hint="make the key with curve P-256")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 (hex) of the key's DER form."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """The key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def read_public(pem: str) -> ec.EllipticCurvePublicKey:
    """A stored device key."""
    key = serialization.load_pem_public_key(pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # enrolment takes no other kind
    return key


def pin(root: bytes, ca: bytes) -> str:
    """Compute what a claim token pins: SHA-256 (hex) of the first root ‖ the CA certificate."""
    return hashlib.sha256(root + ca).hexdigest()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, days: float
) -> x509.CertificateBuilder:
    moment = _moment(now)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _BACKDATE)
        .not_valid_after(moment + datetime.timedelta(days=days))
    )


def _moment(now: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(now), tz=datetime.UTC)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key(pem: bytes | None) -> ec.EllipticCurvePrivateKey:
    if pem is None:
        return ec.generate_private_key(ec.SECP256R1())
    key = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # written by this module
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
