"""Commands to devices: written by any process, signed and sent by the one that holds the broker."""

from __future__ import annotations

import secrets
from typing import Any, Literal, get_args

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.store.tables import Device, OutboxCommand
from fleet.protocol import topics
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import Command, Receipt, Signed

Kind = Literal["diagnose", "send-samples", "benchmark", "set-log-level"]
LIFE_S = 86_400.0  # a command that is older is not carried out any more
RECEIPT_LIFE_S = 3600.0


def send_command(hub: Hub, device_id: str, kind: str, args: dict[str, Any], *, actor: str = "hub") -> str:
    """Queue a command for a device; returns its id. The answer comes as an event of kind `result`.

    Raises:
        InvalidError: a kind that devices do not know.
        NotFoundError: no such device.
        ConflictError: the device was revoked.
    """
    if kind not in get_args(Kind):
        raise InvalidError(f"no command {kind!r}", subject=kind, hint=f"one of: {', '.join(get_args(Kind))}")
    now = hub.clock()
    with hub.session() as session:
        device = session.get(Device, device_id)
        if device is None:
            raise NotFoundError(f"no device {device_id!r}", subject=device_id, hint="list them: fleet device list")
        if device.revoked_at is not None:
            raise ConflictError(f"device {device_id!r} was revoked", subject=device_id)
        row = OutboxCommand(
            id=f"c-{secrets.token_hex(8)}", device_id=device_id, kind=kind, args=args, created_at=now,
            created_by=actor, expires_at=now + LIFE_S,
        )  # fmt: skip
        session.add(row)
        hub.audit(session, actor, "device.command", device_id, {"id": row.id, "kind": kind, "args": args})
        return row.id


def waiting(hub: Hub, limit: int = 100) -> list[tuple[str, str, bytes]]:
    """Sign what waits in the outbox: (row id, topic, payload); the counters are kept before anything is sent."""
    now = hub.clock()
    found: list[tuple[str, str, bytes]] = []
    with hub.session() as session:
        rows = session.exec(
            select(OutboxCommand)
            .where(col(OutboxCommand.sent_at).is_(None), OutboxCommand.expires_at > now)
            .order_by(col(OutboxCommand.created_at))
            .limit(limit)
        ).all()
        # Locked in the order of their ids, as the ingest does; a device's own commands stay in theirs.
        for row in sorted(rows, key=lambda row: row.device_id):
            device = session.get(Device, row.device_id, with_for_update=True)
            if device is None or device.revoked_at is not None:
                row.sent_at = now
                session.add(row)
                continue
            signed = _signed(hub, device, row.id, row.kind, row.args, min(row.expires_at, now + LIFE_S))
            session.add(device)
            topic = topics.command(row.device_id, hub.config.broker.prefix)
            found.append((row.id, topic, msgspec.json.encode(signed)))
    return found


def mark_sent(session: Session, command: str, now: float) -> None:
    """Note that the broker has a command."""
    row = session.get(OutboxCommand, command)
    if row is not None:
        row.sent_at = now
        session.add(row)


def signed_receipt(hub: Hub, device: Device, receipt: Receipt) -> Signed:
    """A receipt as a signed command; raises the device's counter, in the caller's transaction."""
    args = msgspec.to_builtins(receipt)
    return _signed(hub, device, f"r-{device.command_counter + 1}", "receipt", args, hub.clock() + RECEIPT_LIFE_S)


def _signed(hub: Hub, device: Device, command: str, kind: Any, args: dict[str, Any], expires_at: float) -> Signed:
    device.command_counter += 1
    payload = Command(
        id=command, device=device.id, counter=device.command_counter, expires_at=expires_at, kind=kind, args=args
    )
    return hub.command_key.sign(encode_json(payload))
