"""Enrolment: a claim token and a device's own key in, a certificate out. Idempotent for the same two."""

from __future__ import annotations

from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, UnauthenticatedError
from cloud_hub.identity import ca, tokens
from cloud_hub.identity.renewal import certify, past_half
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Device, Token
from fleet.protocol.messages import EnrollRequest, EnrollResponse
from fleet.protocol.names import check_name

ANOTHER_NAME = "enrol it under another name: no two devices have one, not even after each other"
LET_BACK_IN = (
    "a revocation is for ever: move `identity` in the device's directory away, and enrol it with a new token and"
    " another name; nothing that it holds is lost"
)


def enroll(hub: Hub, request: EnrollRequest) -> EnrollResponse:
    """Enrol a device, or answer again what it was told before.

    The token's first use binds it to the device's key. The same token with the same key gives the
    same device (with a fresh certificate when the old one nears its end), another key a conflict.

    Raises:
        UnauthenticatedError: not a claim token in force.
        InvalidError: a certificate request that is not one, or not of a P-256 key.
        MalformedError: a name that is not valid.
        ConflictError: the token was used with another key, the key or the name belongs to another
            device, or the device was revoked.
    """
    key = ca.read_request(request.csr)
    if request.name:
        check_name(request.name, "device")
    with hub.session() as session:
        token = _claim(session, request, hub.clock())
        fingerprint = ca.fingerprint(key)
        lock_name(session, f"key:{fingerprint}")  # one key is one device, whatever tokens and names it comes with
        if token.key_fingerprint and token.key_fingerprint != fingerprint:
            raise ConflictError(
                "this claim token was used by another key", subject=token.id, hint="make one token per device"
            )
        if token.device_id:
            device = _again(hub, session, token, ca.public_pem(key))
        else:
            device = _first(hub, session, token, request, ca.public_pem(key), fingerprint)
        return _answer(hub, device)


def _claim(session: Session, request: EnrollRequest, now: float) -> Token:
    row = session.get(Token, request.token, with_for_update=True)  # one of two that come at once waits here
    if row is not None and row.kind != "claim":
        raise UnauthenticatedError("this is not a claim token", subject="token", hint="make one: fleet token create")
    if row is not None and row.key_fingerprint and row.revoked_at is None:
        now = min(now, row.created_at)  # a bound token still answers its own key after it has expired
    return tokens.check_secret(row, request.secret, now=now)


def _again(hub: Hub, session: Session, token: Token, public_key: str) -> Device:
    device = session.get(Device, token.device_id, with_for_update=True)
    if device is None or device.revoked_at is not None or device.public_key != public_key:
        raise ConflictError("this device was revoked", subject=token.device_id, hint=LET_BACK_IN)
    if past_half(hub, device):
        certify(hub, session, device)
    return device


def _first(
    hub: Hub, session: Session, token: Token, request: EnrollRequest, public_key: str, fingerprint: str
) -> Device:
    now = hub.clock()
    known = session.exec(select(Device).where(col(Device.key_fingerprint) == fingerprint).with_for_update()).first()
    device_id = request.name or (known.id if known else f"d-{fingerprint[:16]}")
    holder = session.get(Device, device_id)
    if (known is not None and known.id != device_id) or (holder is not None and holder.key_fingerprint != fingerprint):
        gone = holder is not None and holder.revoked_at is not None
        taken = f"the name {device_id!r} or this key belongs to another device"
        raise ConflictError(f"{taken}{', which was revoked' if gone else ''}", subject=device_id, hint=ANOTHER_NAME)
    if known is not None and known.revoked_at is not None:
        raise ConflictError("this device was revoked", subject=device_id, hint=LET_BACK_IN)
    device = known or Device(
        id=device_id,
        public_key=public_key,
        key_fingerprint=fingerprint,
        certificate="",
        certificate_serial="",
        certificate_expires_at=0.0,
        mqtt_password=tokens.new_secret(),
        channel=token.channel,
        labels=token.labels,
        enrolled_at=now,
    )
    device.channel = token.channel
    said = {"agent": request.agent, "hardware": request.hardware, "capabilities": list(request.capabilities)}
    device.info = {**device.info, **said}
    certify(hub, session, device)
    token.device_id, token.key_fingerprint = device_id, fingerprint
    session.add(token)
    hub.audit(session, f"device:{device_id}", "device.enroll", device_id, {"token": token.id, "channel": token.channel})
    return device


def _answer(hub: Hub, device: Device) -> EnrollResponse:
    return EnrollResponse(
        device_id=device.id,
        certificate=device.certificate,
        ca=hub.authority.ca_pem.decode(),
        channel=device.channel,
        mqtt=hub.mqtt_endpoint(device.mqtt_password),
    )
