"""Certificates after the first one: when a new one is due, and who may have it.

A device proves itself with its enrolled key over a nonce of the hub, not with its certificate, so one
that was away until that had expired comes back by itself. A fresh key is `pending` until the device
has bought a token with it; then it replaces the enrolled one. However the two are cut off, the
device holds a key that the hub accepts.
"""

from __future__ import annotations

import hashlib

from sqlmodel import Session, col, select

from cloud_hub.clock import lies_ahead
from cloud_hub.context import Hub
from cloud_hub.errors import RateError, UnauthenticatedError
from cloud_hub.identity import ca
from cloud_hub.identity.device_tokens import SIGNED_PREFIX, check_signature
from cloud_hub.store.tables import CertificateRow, Device, Token
from fleet.protocol.messages import RenewRequest, RenewResponse, TokenRequest, renewal_bytes

JITTER = 0.1  # of a certificate's life: devices that enrolled together do not all renew together
MOST = 8  # unexpired certificates of one device; an honest one has two or three


def certify(hub: Hub, session: Session, device: Device) -> None:
    """Give `device` a new certificate for its enrolled key, in the caller's transaction.

    Args:
        hub: the hub.
        session: the caller's.
        device: its row, which gets the certificate.
    """
    issued = _issue(hub, device, device.public_key)
    _replace(session, device.id, "current")
    device.certificate = issued.certificate
    device.certificate_serial, device.certificate_expires_at = issued.serial, issued.expires_at
    session.add(device)
    session.flush()  # the certificate's row refers to the device's
    _keep(hub, session, device.id, device.public_key, issued, "current")


def past_half(hub: Hub, device: Device) -> bool:
    """Return whether the certificate has lived for half of its life, or longer, or begins in the future."""
    return device.certificate_expires_at - hub.clock() < _life_s(hub) / 2 or _not_yet(
        hub, device.certificate_expires_at
    )


def is_due(hub: Hub, device: Device) -> bool:
    """Return whether the device should renew: half of the life and up to a tenth more, by the device's id."""
    share = int(hashlib.sha256(device.id.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
    left = device.certificate_expires_at - hub.clock()
    return left < _life_s(hub) * (0.5 - JITTER * share) or _not_yet(hub, device.certificate_expires_at)


def reissue_certificate(hub: Hub, request: RenewRequest) -> RenewResponse:
    """A certificate for the key of the request; the same key gives the same one until half of its life is over.

    Raises:
        UnauthenticatedError: not enrolled, revoked, or not signed by the enrolled key.
        InvalidError: a certificate request that is not one.
        RateError: it has asked for too many.
    """
    hub.device_tokens.check_nonce(request.device_id, request.nonce, now=hub.clock())
    key = ca.public_pem(ca.read_request(request.csr))
    with hub.session() as session:
        device = _locked(session, request.device_id)
        check_signature(device.public_key, request.signature, renewal_bytes(request.nonce, request.csr))
        expired = device.certificate_expires_at <= hub.clock()
        if key == device.public_key:
            if not past_half(hub, device):
                return RenewResponse(certificate=device.certificate, expires_at=device.certificate_expires_at)
            _refuse_too_many(hub, session, device)
            certify(hub, session, device)
            answer = RenewResponse(certificate=device.certificate, expires_at=device.certificate_expires_at)
        else:
            waiting = _pending(session, device.id)
            if waiting is not None and waiting.public_key == key and _in_force(hub, waiting):
                return RenewResponse(certificate=waiting.certificate, expires_at=waiting.expires_at)
            _refuse_too_many(hub, session, device)
            issued = _issue(hub, device, key)
            _replace(session, device.id, "pending")
            _keep(hub, session, device.id, key, issued, "pending")
            answer = RenewResponse(certificate=issued.certificate, expires_at=issued.expires_at)
        action = "device.re-enrol" if expired else "device.renew"
        detail = {"expires_at": answer.expires_at, "fresh_key": key != device.public_key}
        hub.audit(session, f"device:{device.id}", action, device.id, detail)
        return answer


def buy_token(hub: Hub, request: TokenRequest) -> str:
    """A bearer token for a nonce that the device's key signed; a pending key becomes the enrolled one.

    Raises:
        UnauthenticatedError: not enrolled, revoked, or neither key signed the nonce.
    """
    now, message = hub.clock(), SIGNED_PREFIX + request.nonce.encode()
    hub.device_tokens.check_nonce(request.device_id, request.nonce, now=now)
    with hub.reading() as session:
        device = session.get(Device, request.device_id)
        waiting = _pending(session, request.device_id)
    if device is None or device.revoked_at is not None:
        raise _stranger()
    try:
        check_signature(device.public_key, request.signature, message)
    except UnauthenticatedError:
        if waiting is None:
            raise
        check_signature(waiting.public_key, request.signature, message)
        _promote(hub, waiting.device_id, waiting.serial)
    return hub.device_tokens.token(request.device_id, now=now)


def _promote(hub: Hub, device_id: str, serial: str) -> None:
    """Make a pending key and certificate the device's own; doing so twice changes nothing."""
    with hub.session() as session:
        device = _locked(session, device_id)
        row = session.get_one(CertificateRow, serial)  # read under the lock; certificates are never removed
        if row.state != "pending":
            return
        _replace(session, device.id, "current")
        row.state = "current"
        session.add(row)
        old = device.key_fingerprint
        device.public_key, device.certificate = row.public_key, row.certificate
        device.key_fingerprint = ca.fingerprint(ca.read_public(row.public_key))
        device.certificate_serial, device.certificate_expires_at = row.serial, row.expires_at
        session.add(device)
        for token in session.exec(select(Token).where(Token.device_id == device.id, Token.key_fingerprint == old)):
            token.key_fingerprint = device.key_fingerprint  # enrolling again with it stays idempotent
            session.add(token)
        hub.audit(session, f"device:{device.id}", "device.new-key", device.id, {"serial": row.serial})


def _issue(hub: Hub, device: Device, public_key: str) -> ca.Issued:
    key = ca.read_public(public_key)
    return hub.authority.device(device.id, key, hub.clock(), hub.config.device_certificate_days)


def _keep(hub: Hub, session: Session, device_id: str, public_key: str, issued: ca.Issued, state: str) -> None:
    session.add(
        CertificateRow(
            serial=issued.serial,
            device_id=device_id,
            state=state,
            public_key=public_key,
            certificate=issued.certificate,
            issued_at=hub.clock(),
            expires_at=issued.expires_at,
        )
    )


def _replace(session: Session, device_id: str, state: str) -> None:
    rows = select(CertificateRow).where(CertificateRow.device_id == device_id, CertificateRow.state == state)
    for row in session.exec(rows):
        row.state = "replaced"
        session.add(row)


def _pending(session: Session, device_id: str) -> CertificateRow | None:
    rows = select(CertificateRow).where(CertificateRow.device_id == device_id, CertificateRow.state == "pending")
    return session.exec(rows).first()


def _refuse_too_many(hub: Hub, session: Session, device: Device) -> None:
    rows = select(CertificateRow.serial).where(
        CertificateRow.device_id == device.id, col(CertificateRow.expires_at) > hub.clock()
    )
    if len(session.exec(rows).all()) >= MOST:
        raise RateError(
            f"device {device.id!r} has {MOST} certificates that have not expired",
            subject=device.id,
            hint="revoke the device and enrol it anew when it asks again and again",
        )


def _locked(session: Session, device_id: str) -> Device:
    device = session.get(Device, device_id, with_for_update=True)
    if device is None or device.revoked_at is not None:
        raise _stranger()
    return device


def _not_yet(hub: Hub, expires_at: float) -> bool:
    """Return whether a certificate lasts longer than one of today: a clock that ran ahead has issued it for later."""
    return lies_ahead(expires_at, hub.clock(), _life_s(hub))


def _in_force(hub: Hub, row: CertificateRow) -> bool:
    return row.expires_at > hub.clock() and not _not_yet(hub, row.expires_at)


def _stranger() -> UnauthenticatedError:
    return UnauthenticatedError("this device is not enrolled", subject="device", hint="edge-agent enroll")


def _life_s(hub: Hub) -> float:
    return hub.config.device_certificate_days * 86_400
