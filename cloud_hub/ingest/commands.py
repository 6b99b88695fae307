"""Commands to devices: written by any process, signed and sent by the one that holds the broker."""

from __future__ import annotations

import secrets
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import delete, or_, true
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.ingest.shards import Shards
from cloud_hub.store.senders import Sender
from cloud_hub.store.tables import Device, OutboxCommand
from fleet.protocol import topics
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import Command, Receipt, Signed

Kind = Literal["diagnose", "logs", "send-samples", "benchmark", "set-log-level"]
LIFE_S = 86_400.0  # a command that is older is not carried out any more
RECEIPT_LIFE_S = 3600.0
KEPT = 500  # of a device, the newest: answers to older ones are not looked for either (`cloud_hub.devices.answers`)


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
            id=f"c-{secrets.token_hex(8)}",
            device_id=device_id,
            kind=kind,
            args=args,
            created_at=now,
            created_by=actor,
            expires_at=now + LIFE_S,
        )
        session.add(row)
        session.flush()
        _forget(session, device_id, now)
        hub.audit(session, actor, "device.command", device_id, {"id": row.id, "kind": kind, "args": args})
        return row.id


def _forget(session: Session, device_id: str, now: float) -> None:
    """Delete a device's oldest commands that are done with: who follows its log sends one every few seconds."""
    ours = col(OutboxCommand.device_id) == device_id
    newest = select(OutboxCommand.id).where(ours).order_by(col(OutboxCommand.created_at).desc()).limit(KEPT)
    done = or_(col(OutboxCommand.sent_at).is_not(None), col(OutboxCommand.expires_at) <= now)
    session.connection().execute(delete(OutboxCommand).where(ours, done, col(OutboxCommand.id).not_in(newest)))


def waiting(hub: Hub, shards: Shards | None = None, limit: int = 100) -> list[tuple[str, str, bytes]]:
    """Sign the commands that wait in the outbox: (row id, topic, payload); the counters are kept before anything is
    sent.

    Of several hubs each sends to the devices of its `shards`.
    """
    now = hub.clock()
    found: list[tuple[str, str, bytes]] = []
    ours = shards.among(col(OutboxCommand.device_id)) if shards is not None else true()
    with hub.session() as session:
        rows = session.exec(
            select(OutboxCommand)
            .where(col(OutboxCommand.sent_at).is_(None), OutboxCommand.expires_at > now, ours)
            .order_by(col(OutboxCommand.created_at))
            .limit(limit)
        ).all()
        if shards is not None:
            held = shards.fence(session, {topics.shard(row.device_id) for row in rows})
            rows = [row for row in rows if topics.shard(row.device_id) in held]
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


def signed_receipt(hub: Hub, device: Sender, receipt: Receipt) -> Signed:
    """Return a receipt as a signed command; raises the device's counter, in the caller's transaction."""
    args = msgspec.to_builtins(receipt)
    return _signed(hub, device, f"r-{_next_counter(hub, device)}", "receipt", args, hub.clock() + RECEIPT_LIFE_S)


def _next_counter(hub: Hub, device: Device | Sender) -> int:
    """Above the last one, and not below the time in milliseconds: a hub that was restored to an older day does not know
    which counters it has used since, and a device takes none twice."""
    return max(device.command_counter + 1, int(hub.clock() * 1000))


def _signed(
    hub: Hub, device: Device | Sender, command: str, kind: Any, args: dict[str, Any], expires_at: float
) -> Signed:
    device.command_counter = _next_counter(hub, device)
    payload = Command(
        id=command, device=device.id, counter=device.command_counter, expires_at=expires_at, kind=kind, args=args
    )
    return hub.command_key.sign(encode_json(payload))
