"""The state of a command to a device, and the device's answer."""

from __future__ import annotations

from sqlalchemy import Text, func, type_coerce
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.devices.status import find_device
from cloud_hub.errors import NotFoundError
from cloud_hub.store.tables import DeviceEvent, OutboxCommand
from fleet.api.devices import CommandAnswer, CommandInfo, CommandState

COMMANDS = 3  # of a kind, whose answers are looked for
NEWEST = 500  # of a device's reports in which an answer is looked for: one that floods hides its own answers only


def command_of(hub: Hub, device_id: str, command: str) -> CommandInfo:
    """Return a command with its answer, if that is here.

    Args:
        hub: the hub.
        device_id: the device.
        command: its id.

    Raises:
        NotFoundError: there is no such device, or no such command to it.
    """
    with hub.reading() as session:
        find_device(session, device_id)
        row = session.get(OutboxCommand, command)
        if row is None or row.device_id != device_id:
            raise NotFoundError(f"no command {command!r} was sent to device {device_id!r}", subject=command)
        answer = _answer(session, device_id, command)
    state: CommandState = "waiting" if row.sent_at is None else "sent"
    if answer is not None:
        state = "answered"
    elif hub.clock() > row.expires_at:
        state = "expired"
    return CommandInfo(
        id=row.id,
        device=device_id,
        kind=row.kind,
        state=state,
        created_at=row.created_at,
        sent_at=row.sent_at,
        expires_at=row.expires_at,
        answer=answer,
    )


def newest_answer(session: Session, device_id: str, kind: str) -> CommandAnswer | None:
    """Return a device's last answer to a command of a kind, if one was sent lately and has been answered.

    Args:
        session: an open one.
        device_id: the device.
        kind: of the command, such as `send-logs`.
    """
    sent = select(OutboxCommand.id).where(OutboxCommand.device_id == device_id, OutboxCommand.kind == kind)
    for command in session.exec(sent.order_by(col(OutboxCommand.created_at).desc()).limit(COMMANDS)):
        answer = _answer(session, device_id, command)
        if answer is not None and answer.ok:
            return answer
    return None


def _answer(session: Session, device_id: str, command: str) -> CommandAnswer | None:
    """The first answer among the device's newest reports. What the text finds is looked at again as a document: the id
    may stand somewhere else in it."""
    newest = select(DeviceEvent.id).where(DeviceEvent.device_id == device_id).order_by(col(DeviceEvent.id).desc())
    place = func.strpos if session.get_bind().dialect.name == "postgresql" else func.instr
    answers = select(DeviceEvent).where(
        col(DeviceEvent.id).in_(newest.limit(NEWEST)),
        DeviceEvent.kind == "result",
        place(type_coerce(DeviceEvent.body, Text), command) > 0,
    )
    for event in session.exec(answers.order_by(col(DeviceEvent.id))):
        body = event.body
        if body.get("id") == command:
            return CommandAnswer(
                ok=body["ok"], detail=body["detail"], data=body["data"], at=event.at, received_at=event.received_at
            )
    return None
