"""`fleet device`: the devices of the fleet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import device_commands, device_samples
from fleet.cli.device_commands import DeviceArgument
from fleet.cli.output import Column, local_time, print_document, print_items, print_json, print_note
from fleet.cli.session import JsonFlag, SinceOption, body_of, client_of, parse_pairs, session_of
from fleet.protocol.bounds import whole_number

if TYPE_CHECKING:
    from fleet.api.devices import DeviceInfo
    from fleet.api.vitals import VitalsHour

app = typer.Typer(name="device", help="The devices of the fleet.", no_args_is_help=True)
COLUMNS: list[Column] = [
    ("device", "id"),
    ("channel", "channel"),
    ("state", "state"),
    ("labels", "labels"),
    ("models", lambda device: summary(device)),
    ("problem", "problem"),
    ("last seen", "last_seen_at"),
    ("revoked", "revoked_at"),
]


@app.command("list")
def list_(
    context: typer.Context,
    label: Annotated[list[str] | None, typer.Option("--label", help="Only with key=value; repeatable.")] = None,
    channel: Annotated[str, typer.Option("--channel", help="Only those that follow this channel.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most this many; all when not given.")] = None,
    after: Annotated[str, typer.Option("--after", help="Only devices whose ids come after this one.")] = "",
    json: JsonFlag = False,
) -> None:
    """List devices with what they run, by id.

    Example: fleet device list --label site=berlin --limit 50
    """
    labels = [f"{key}={value}" for key, value in parse_pairs(label or []).items()]
    devices = client_of(context).devices(labels=labels, channel=channel, limit=limit, after=after)
    print_items(devices, COLUMNS, json=json, empty="no devices; fleet token create --channel C makes a claim token")


@app.command("show")
def show(context: typer.Context, device: DeviceArgument, json: JsonFlag = False) -> None:
    """Show one device and where each of its models stands.

    Example: fleet device show kiosk-7
    """
    from fleet.api.vitals import vitals_in_words

    found = client_of(context).device(device)
    if json:
        print_json(found)
        return
    columns: list[Column] = [
        *COLUMNS,
        ("pins", "pins"),
        ("clock", "info.clock"),
        ("certificate", "certificate_expires_at"),
    ]
    if found.vitals is not None:
        columns += [(name, partial(_said, words)) for name, words in vitals_in_words(found.vitals).items()]
        columns.append(("machine told", "vitals.at"))
    print_document(found, columns, json=False)
    if found.problem:
        print_note(f"{found.problem}: {found.hint}")
    if found.info.problem not in ("", found.problem):
        print_note(f"{found.info.problem}: {found.info.hint}")
    for model, held in found.held_back.items():
        keeps = f"release {held.release}" if held.release else "what it has"
        needs = f"release {held.offered} needs {', '.join(held.lacks)}, which this agent lacks"
        print_note(f"{model}: {needs}; it keeps {keeps} (try: update the agent)")
    if found.set_aside:
        print_note(f"{found.set_aside} messages could not be taken (try: fleet device set-aside {device})")
    for known in found.models:
        if known.reason:
            hint = f" (try: {known.hint})" if known.hint else ""
            print_note(f"{known.model}: {known.reason} at {local_time(known.at)}: {known.detail}{hint}")


def _said(words: str, _device: object) -> str:
    return words


@app.command("vitals")
def vitals(context: typer.Context, device: DeviceArgument, since: SinceOption = "30d", json: JsonFlag = False) -> None:
    """Show how a device's machine did, hour by hour; an hour in which it was not heard is not there.

    Example: fleet device vitals kiosk-7 --since 3d
    """
    from fleet.api.vitals import hour_in_words

    session = session_of(context)
    hours = session.client.device_vitals(device, since=session.since(since))
    columns: list[Column] = [("hour", lambda hour: local_time(hour.begins)), ("heartbeats", "heartbeats")]
    columns += [(name, partial(_of_hour, name, hour_in_words)) for name in ("cpu", "memory", "disk", "temperature")]
    print_items(hours, columns, json=json, empty="it told nothing of its machine in that time")


def _of_hour(name: str, in_words: Callable[[VitalsHour], dict[str, str]], hour: VitalsHour) -> str:
    return in_words(hour).get(name, "–")


@app.command("set-aside")
def set_aside(context: typer.Context, device: DeviceArgument, json: JsonFlag = False) -> None:
    """List the messages of a device that the hub could not take, with their reasons; the newest ones are kept.

    Example: fleet device set-aside kiosk-7
    """
    columns = [
        ("at", "received_at"),
        ("topic", "leaf"),
        ("record", "seq"),
        ("reason", "reason"),
        ("detail", "detail"),
    ]
    print_items(client_of(context).set_aside(device), columns, json=json, empty="nothing was set aside")


@app.command("label")
def label(
    context: typer.Context,
    device: DeviceArgument,
    labels: Annotated[list[str], typer.Argument(help="key=value to set, key- to remove.")],
    json: JsonFlag = False,
) -> None:
    """Set or remove labels; others stay.

    Example: fleet device label kiosk-7 site=berlin old-
    """
    removed = [text[:-1] for text in labels if text.endswith("-") and "=" not in text]
    kept = parse_pairs([text for text in labels if text[:-1] not in removed or "=" in text])
    changes: dict[str, str | None] = {**kept, **dict.fromkeys(removed)}
    from fleet.api.devices import DeviceChanges

    wanted = body_of(DeviceChanges, labels=changes)
    print_document(client_of(context).change_device(device, wanted), COLUMNS[:4], json=json)


@app.command("set")
def set_(
    context: typer.Context,
    device: DeviceArgument,
    channel: Annotated[str, typer.Option("--channel", help="Follow this channel.")] = "",
    pin: Annotated[list[str] | None, typer.Option("--pin", help="MODEL=RELEASE to hold; repeatable.")] = None,
    unpin: Annotated[list[str] | None, typer.Option("--unpin", help="MODEL to let go; repeatable.")] = None,
    json: JsonFlag = False,
) -> None:
    """Move a device to another channel, or pin a model's release.

    Example: fleet device set kiosk-7 --pin digits=3
    """
    if not (channel or pin or unpin):
        raise typer.BadParameter("give --channel, --pin or --unpin")
    pins: dict[str, int | None] = dict.fromkeys(unpin or [])
    for model, number in parse_pairs(pin or []).items():
        release = whole_number(number)
        if release is None:
            raise typer.BadParameter(f"{number!r} is not a release number")
        pins[model] = release
    from fleet.api.devices import DeviceChanges

    wanted = body_of(DeviceChanges, channel=channel or None, pins=pins or None)
    print_document(client_of(context).change_device(device, wanted), [*COLUMNS[:4], ("pins", "pins")], json=json)


app.command("diagnose")(device_commands.diagnose)
app.command("logs")(device_commands.logs)
app.command("bench")(device_commands.bench)
app.command("samples")(device_samples.samples)


@app.command("revoke")
def revoke(context: typer.Context, device: DeviceArgument, json: JsonFlag = False) -> None:
    """Refuse a device from now on: its calls, its messages, its certificate.

    Example: fleet device revoke kiosk-7
    """
    client_of(context).revoke_device(device)
    print_document({"id": device, "revoked": True}, [("device", "id"), ("revoked", "revoked")], json=json)


@app.command("delete")
def delete(context: typer.Context, device: DeviceArgument, json: JsonFlag = False) -> None:
    """Delete what is known of a device that was revoked, or that has enrolled and never come. It stays out.

    Its name is not used again. Entries of the audit log stay, and samples until their retention ends. One that was
    heard is revoked first: fleet device revoke.

    Example: fleet device delete kiosk-7
    """
    done = client_of(context).delete_device(device)
    print_document(done, [("device", "id"), ("rows deleted", "rows"), ("samples that stay", "samples")], json=json)


def summary(device: DeviceInfo) -> str:
    """`digits 2 (committed)`, and what is under way."""
    parts = []
    for known in device.models:
        untried = ", untried" if known.untried else ""
        text = f"{known.model} {known.active or 'none'} ({known.state}{untried})"
        if known.target not in (None, known.active):
            text += f" → {known.target}"
        if known.reason:
            text += f" [{known.reason}]"
        parts.append(text)
    return ", ".join(parts)
