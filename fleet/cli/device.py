"""`fleet device`: the devices of the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fleet.cli.output import moment, note, print_document, print_items, print_json
from fleet.cli.session import JsonFlag, ModelOption, client_of, parse_pairs

app = typer.Typer(name="device", help="The devices of the fleet.", no_args_is_help=True)
COLUMNS = [
    ("device", "id"),
    ("channel", "channel"),
    ("state", "state"),
    ("labels", "labels"),
    ("models", "_models"),
    ("problem", "problem"),
    ("last seen", "last_seen_at"),
    ("revoked", "revoked_at"),
]
DeviceArgument = Annotated[str, typer.Argument(help="The device's id.")]


@app.command("list")
def list_(
    context: typer.Context,
    label: Annotated[list[str] | None, typer.Option("--label", help="Only with key=value; repeatable.")] = None,
    channel: Annotated[str, typer.Option("--channel", help="Only those that follow this channel.")] = "",
    json: JsonFlag = False,
) -> None:
    """List devices with what they run.

    Example: fleet device list --label site=berlin
    """
    labels = [f"{key}={value}" for key, value in parse_pairs(label or []).items()]
    devices = client_of(context).devices(labels=labels, channel=channel)
    shown = devices if json else [{**device, "_models": summary(device)} for device in devices]
    print_items(shown, COLUMNS, json=json, empty="no devices; fleet token create --channel C makes a claim token")


@app.command("show")
def show(context: typer.Context, device: DeviceArgument, json: JsonFlag = False) -> None:
    """Show one device and where each of its models stands.

    Example: fleet device show kiosk-7
    """
    document = client_of(context).device(device)
    if json:
        print_json(document)
        return
    columns = [*COLUMNS, ("pins", "pins"), ("clock", "info.clock"), ("certificate", "certificate_expires_at")]
    print_document({**document, "_models": summary(document)}, columns, json=False)
    info = document.get("info") or {}
    for said in (document, info if info.get("problem") != document.get("problem") else {}):
        if said.get("problem"):
            note(f"{said['problem']}: {said.get('hint', '')}")
    for model, held in document.get("held_back", {}).items():
        keeps = f"release {held['release']}" if held["release"] else "what it has"
        lacks = ", ".join(held["lacks"])
        needs = f"release {held['offered']} needs {lacks}, which this agent lacks"
        note(f"{model}: {needs}; it keeps {keeps} (try: update the agent)")
    if document.get("set_aside"):
        note(f"{document['set_aside']} messages could not be taken (try: fleet device set-aside {device})")
    for model in document.get("models", []):
        if model.get("reason"):
            hint = f" (try: {model['hint']})" if model.get("hint") else ""
            note(f"{model['model']}: {model['reason']} at {moment(model['at'])}: {model.get('detail', '')}{hint}")


@app.command("set-aside")
def set_aside(context: typer.Context, device: DeviceArgument, json: JsonFlag = False) -> None:
    """List the messages of a device that the hub could not take, with their reasons; the newest ones are kept.

    Example: fleet device set-aside kiosk-7
    """
    columns = [("at", "received_at"), ("topic", "leaf"), ("record", "seq"), ("reason", "reason"), ("detail", "detail")]
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
    print_document(client_of(context).change_device(device, labels=changes), COLUMNS[:4], json=json)


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
        if not number.isdigit():
            raise typer.BadParameter(f"{number!r} is not a release number")
        pins[model] = int(number)
    document = client_of(context).change_device(device, channel=channel or None, pins=pins or None)
    print_document(document, [*COLUMNS[:4], ("pins", "pins")], json=json)


@app.command("bench")
def bench(
    context: typer.Context,
    device: DeviceArgument,
    model: ModelOption,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Calls that are timed.")] = 200,
    json: JsonFlag = False,
) -> None:
    """Let a device measure the release it serves; see the figures with: fleet release show.

    Example: fleet device bench kiosk-7 --model digits
    """
    document = client_of(context).command_device(device, "benchmark", model=model, rounds=rounds)
    print_document(document, [("command", "id"), ("device", "device")], json=json)


@app.command("revoke")
def revoke(context: typer.Context, device: DeviceArgument, json: JsonFlag = False) -> None:
    """Refuse a device from now on: its calls, its messages, its certificate.

    Example: fleet device revoke kiosk-7
    """
    client_of(context).revoke_device(device)
    print_document({"id": device, "revoked": True}, [("device", "id"), ("revoked", "revoked")], json=json)


def summary(device: Mapping[str, Any]) -> str:
    """`digits 2 (committed)`, and what is under way."""
    parts = []
    for model in device.get("models", []):
        untried = ", untried" if model.get("untried") else ""
        text = f"{model['model']} {model.get('active') or 'none'} ({model['state']}{untried})"
        if model.get("target") not in (None, model.get("active")):
            text += f" → {model['target']}"
        if model.get("reason"):
            text += f" [{model['reason']}]"
        parts.append(text)
    return ", ".join(parts)
