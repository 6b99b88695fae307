"""A command to a device, and its answer: sent, waited for with a deadline, and never waited for in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleet.cli.output import local_time
from fleet.errors import ConflictError, FailedError, TimedOutError, UnreachableError

if TYPE_CHECKING:
    from fleet.api.devices import CommandAnswer, DeviceDetail
    from fleet.cli.session import Session

FIRST_S, LAST_S = 0.25, 2.0  # between two looks for an answer: soon at first


def ask_device(
    session: Session, device: str, kind: str, arguments: dict[str, Any], *, timeout_s: float
) -> CommandAnswer:
    """Send a command to a device that is there, and wait for its answer.

    Raises:
        ConflictError: the device was revoked. UnreachableError: it is offline; nothing is sent.
        FailedError: it has answered that it could not, or would not.
        TimedOutError: no answer within `timeout_s`.
    """
    from fleet.api.devices import NewCommand

    refuse_absent(session.client.device(device))
    sent = session.client.command_device(device, NewCommand(kind=kind, args=arguments))
    deadline, pause = session.monotonic() + timeout_s, FIRST_S
    while True:
        found = session.client.command(device, sent.id)
        if found.answer is not None:
            return _done(device, kind, found.answer)
        if found.state == "expired" or session.monotonic() + pause > deadline:
            raise _late(device, kind, found.state, timeout_s)
        session.sleep(pause)
        pause = min(2 * pause, LAST_S)


def refuse_absent(device: DeviceDetail) -> None:
    """Raise ConflictError for a revoked device, UnreachableError for one that is offline."""
    if device.state == "revoked":
        raise ConflictError(f"device {device.id!r} was revoked: it takes no commands", subject=device.id)
    if device.state == "offline":
        heard = "it was never heard"
        if device.last_seen_at is not None:
            heard = f"it was heard last at {local_time(device.last_seen_at)}"
        raise UnreachableError(
            f"device {device.id!r} is offline: {heard}; nothing was sent",
            subject=device.id,
            hint=f"what is known of it: fleet device show {device.id}",
        )


def _done(device: str, kind: str, answer: CommandAnswer) -> CommandAnswer:
    if answer.ok:
        return answer
    hint = "update the agent on it" if "is unknown here" in answer.detail else f"fleet device diagnose {device}"
    raise FailedError(f"device {device!r} did not do {kind!r}: {answer.detail or 'it says no why'}", hint=hint)


def _late(device: str, kind: str, state: str, timeout_s: float) -> TimedOutError:
    if state == "waiting":
        where = "the command still waits in the hub, which does not send"
        hint = "is the hub's broker well? its /healthz says"
    else:
        where = "the command was sent, and no answer has come"
        hint = f"a larger --timeout; or look whether it is still heard: fleet device show {device}"
    return TimedOutError(f"device {device!r} has not answered {kind!r} in {timeout_s:g} s: {where}", hint=hint)
