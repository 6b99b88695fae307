"""An operator's changes of a device: labels, pins, channel, and its access."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlmodel import Session, select

from cloud_hub.acts import DeviceRevoked
from cloud_hub.context import Hub
from cloud_hub.devices.status import describe_devices, find_device
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.journal import write_act
from cloud_hub.store.tables import CertificateRow, ChannelRow, Device, Token
from cloud_hub.trust.rows import refuse_stranger, status_in_words
from fleet.api.devices import DeviceChanges, DeviceInfo
from fleet.protocol.names import check_name

T = TypeVar("T")
_LABEL_LIMIT = 64  # characters


def change_device(hub: Hub, device_id: str, wanted: DeviceChanges, *, actor: str) -> DeviceInfo:
    """Change labels, pins or the channel.

    Args:
        hub: the hub.
        device_id: the device.
        wanted: the fields to change; those that are not given stay.
        actor: as in the audit log.

    Raises:
        NotFoundError: no such device or channel.
        InvalidError: a label out of bounds, or a pin on a release that is not published.
        ConflictError: a pin on a release that has not the model's interface.
    """
    with hub.session() as session:
        row = find_device(session, device_id, lock=True)
        detail: dict[str, Any] = {}
        if wanted.labels:
            row.labels = _merged(row.labels, {check_label(k, v): v for k, v in wanted.labels.items()})
            detail["labels"] = row.labels
        if wanted.pins:
            for model, number in wanted.pins.items():
                _check_pin(session, model, number)
            row.pins = _merged(row.pins, wanted.pins)
            detail["pins"] = row.pins
        if wanted.channel is not None:
            if session.get(ChannelRow, wanted.channel) is None:
                raise NotFoundError(f"no channel {wanted.channel!r}", subject=wanted.channel, hint="fleet channel list")
            row.channel = detail["channel"] = wanted.channel
        session.add(row)
        hub.audit(session, actor, "device.change", device_id, detail)
        return describe_devices(hub, session, [row])[0]


def revoke_device(hub: Hub, device_id: str, *, actor: str) -> DeviceInfo:
    """End a device's access at once; revoking twice changes nothing.

    Args:
        hub: the hub.
        device_id: the device.
        actor: as in the audit log.

    Raises:
        NotFoundError: there is no such device.
    """
    with hub.session() as session:
        row = find_device(session, device_id, lock=True)
        end_access(hub, session, row, actor)
        return describe_devices(hub, session, [row])[0]


def end_access(hub: Hub, session: Session, row: Device, actor: str) -> None:
    """Revoke a device whose row is locked, in the caller's transaction, unless it is revoked.

    Args:
        hub: the hub.
        session: the caller's.
        row: of the device, locked.
        actor: as in the audit log.
    """
    if row.revoked_at is None:
        row.revoked_at, row.online = hub.clock(), False
        session.add(row)
        write_act(session, _revoked(session, row))
        hub.audit(session, actor, "device.revoke", row.id)


def _revoked(session: Session, row: Device) -> DeviceRevoked:
    """Return the facts that keep the device out, also by a database that never heard of it."""
    certificates = session.exec(select(CertificateRow).where(CertificateRow.device_id == row.id)).all()
    return DeviceRevoked(
        device=row.id,
        key_fingerprint=row.key_fingerprint,
        public_key=row.public_key,
        certificates=tuple((one.serial, one.expires_at) for one in certificates),
        tokens=tuple(session.exec(select(Token.id).where(Token.device_id == row.id))),
    )


def check_label(key: str, value: str | None) -> str:
    """Return `key` when the label is within its bounds; InvalidError or MalformedError otherwise."""
    check_name(key, "label")
    if value is not None and not (0 < len(value) <= _LABEL_LIMIT and value.isprintable()):
        raise InvalidError(
            f"the value of label {key!r} is not valid",
            subject=key,
            hint=f"use 1 to {_LABEL_LIMIT} printable characters",
        )
    return key


def _merged(old: Mapping[str, T], changes: Mapping[str, T | None]) -> dict[str, T]:
    return {key: value for key, value in {**old, **changes}.items() if value is not None}


def _check_pin(session: Session, model: str, number: int | None) -> None:
    if number is None:
        return
    status = status_in_words(session, model, number)
    if status != "published":
        raise InvalidError(
            f"release {number} of {model!r} is {status}", subject=f"{model}/{number}", hint="fleet release list"
        )
    refuse_stranger(session, model, number)
