"""The acts on one device: revoke it, and give it a command."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import (
    Act,
    ActDone,
    ActRequest,
    Button,
    Field,
    Form,
    choices,
    number,
    number_of,
    request_of,
    select,
)
from cloud_hub.devices import changes, status
from cloud_hub.errors import InvalidError
from cloud_hub.ingest.commands import send_command
from fleet.api.devices import DeviceDetail, NewCommand

MIB = 1 << 20
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Meaning(NamedTuple):
    """A command in words, and the numbers that it takes: name, label, usual value, least, most."""

    title: str
    says: str
    button: str
    numbers: tuple[tuple[str, str, str, float, float], ...] = ()
    of_model: bool = False


COMMANDS: dict[str, Meaning] = {
    "diagnose": Meaning("Diagnose", "It says how it stands: models, requests, disk, clock, links.", "Ask the device"),
    "logs": Meaning(
        "Logs of",
        "It sends the newest lines of its agent's log, with credentials hidden.",
        "Ask for its logs",
        (
            ("lines", "Lines, at most", "100", 1, 1000),
            ("minutes", "Only of the last minutes (0: all)", "0", 0, 100_000),
        ),
    ),
    "benchmark": Meaning(
        "Measure",
        "It measures the release that it serves, beside its requests, for five minutes at most.",
        "Let it measure",
        (("rounds", "Calls that are timed", "200", 1, 100_000),),
        of_model=True,
    ),
    "send-samples": Meaning(
        "Ask for samples from",
        "It records requests over the time given and sends them, where its channel samples the model.",
        "Ask for samples",
        (
            ("count", "Samples, at most", "50", 1, 1000),
            ("hours", "Over so many hours", "1", 0, 720),
            ("mib", "MiB, at most", "4", 1, 256),
        ),
        of_model=True,
    ),
    "set-log-level": Meaning("Log level of", "Its agent logs at this level until it starts again.", "Set the level"),
}


def acts() -> list[Act]:
    """Revoking, and an act for each command."""
    sends = [
        Act(
            path=f"/act/devices/{{device_id}}/commands/{kind}",
            like="POST /api/v1/devices/{device_id}/commands",
            role="operator",
            form=partial(_command_form, kind),
            do=partial(_command, kind),
        )
        for kind in COMMANDS
    ]
    revokes = Act(
        path="/act/devices/{device_id}/revoke",
        like="POST /api/v1/devices/{device_id}/revoke",
        role="admin",
        form=_revoke_form,
        do=_revoke,
    )
    return [revokes, *sends]


def _revoke_form(asked: ActRequest) -> Form:
    device = status.detail(asked.hub, asked.names["device_id"])
    served = ", ".join(f"{one.model} {one.active}" for one in device.models if one.active is not None)
    return Form(
        title=f"Revoke device {device.id}",
        says=[
            f"{device.id} is {device.state}, on channel {device.channel}" + (f", serving {served}." if served else "."),
            "Its calls are refused and its messages dropped from this moment on.",
            "It goes on serving what it has, but gets no update; to come back it has to enrol as a new device.",
        ],
        buttons=[Button(words=f"Revoke {device.id}", danger=True)],
        back=places.device(device.id),
        blocked="this device is revoked already" if device.revoked_at is not None else "",
    )


def _revoke(asked: ActRequest) -> ActDone:
    changes.revoke_device(asked.hub, asked.names["device_id"], actor=asked.caller.actor)
    return ActDone(location=places.device(asked.names["device_id"]))


def _command_form(kind: str, asked: ActRequest) -> Form:
    device, meaning = status.detail(asked.hub, asked.names["device_id"]), COMMANDS[kind]
    blocked, warns = "", []
    if device.state == "revoked":
        blocked = "this device is revoked: it takes no commands"
    elif device.state == "offline":
        warns = [f"{device.id} is offline: it does this when it is back, if that is within a day."]
    served = [one.model for one in device.models if one.active is not None]
    if meaning.of_model and not served:
        blocked = blocked or f"{device.id} serves no release yet"
    return Form(
        title=f"{meaning.title} {device.id}",
        says=[meaning.says],
        buttons=[Button(words=meaning.button)],
        back=places.device(device.id),
        fields=_fields(kind, meaning, asked, served),
        blocked=blocked,
        warns=warns,
    )


def _fields(kind: str, meaning: Meaning, asked: ActRequest, served: list[str]) -> list[Field]:
    numbers = [
        number(asked, name, label, usual, least=least, most=most, required=True)
        for name, label, usual, least, most in meaning.numbers
    ]
    models = [select(asked, "model", "Model", choices(served), required=True)] if meaning.of_model else []
    levels = [select(asked, "level", "Level", choices(LEVELS), "INFO")] if kind == "set-log-level" else []
    return [*models, *numbers, *levels]


def _command(kind: str, asked: ActRequest) -> ActDone:
    device = status.detail(asked.hub, asked.names["device_id"])
    wanted = request_of(NewCommand, {}, kind=kind, args=_arguments(kind, asked, device))
    sent = send_command(asked.hub, device.id, wanted.kind, wanted.args, actor=asked.caller.actor)
    return ActDone(location=places.answer(device.id, sent))


def _arguments(kind: str, asked: ActRequest, device: DeviceDetail) -> dict[str, Any]:
    """The command's arguments, as devices take them; InvalidError for a number out of its bounds."""
    given: dict[str, float] = {}
    for name, label, _, least, most in COMMANDS[kind].numbers:
        given[name] = number_of(asked.text(name), label, whole=name not in ("hours", "minutes"))
        if not least <= given[name] <= most:
            raise InvalidError(f"{label}: {given[name]:g} is not from {least:g} to {most:g}", subject=label)
    model = asked.text("model")
    if COMMANDS[kind].of_model and model not in [one.model for one in device.models]:
        raise InvalidError(f"{device.id} has no model {model[:80]!r}", subject="model")
    if kind == "logs":
        return {"lines": int(given["lines"])} | ({"seconds": given["minutes"] * 60} if given["minutes"] else {})
    if kind == "benchmark":
        return {"model": model, "rounds": int(given["rounds"])}
    if kind == "send-samples":
        seconds, most_bytes = given["hours"] * 3600, int(given["mib"]) * MIB
        return {"model": model, "count": int(given["count"]), "max_bytes": most_bytes, "seconds": seconds}
    if kind == "set-log-level":
        if asked.text("level") not in LEVELS:
            raise InvalidError("choose a level", subject="level", hint=", ".join(LEVELS))
        return {"level": asked.text("level")}
    return {}
