"""`fleet channel`: desired state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from fleet.cli.output import print_document, print_items, print_json, print_note
from fleet.cli.session import JsonFlag, body_of, client_of, parse_seconds

if TYPE_CHECKING:
    from fleet.api.channels import ChannelInfo

app = typer.Typer(name="channel", help="Channels: the signed desired state that devices follow.", no_args_is_help=True)
ChannelArgument = Annotated[str, typer.Argument(help="Name of the channel.")]
UncertainShare = Annotated[
    float | None, typer.Option("--uncertain-share", help="Per cent of uncertain answers sampled.")
]
ProbationRequests = Annotated[
    int | None, typer.Option("--probation-requests", help="Good answers before a release is committed.")
]
ProbationP95 = Annotated[
    float | None,
    typer.Option("--probation-p95-us", min=0, help="Roll back when the p95 run time is longer; 0: no limit."),
]
ProbationRatio = Annotated[
    float | None,
    typer.Option("--probation-p95-ratio", min=0, help="The same, times that of the release before; 0: no limit."),
]
BenchFlag = Annotated[
    bool | None, typer.Option("--bench/--no-bench", help="Devices measure each release once after committing it.")
]
MaxRate = Annotated[int | None, typer.Option("--max-rate", help="Bytes per second of a fetch; 0: no limit.")]
FetchWindow = Annotated[
    str | None,
    typer.Option("--fetch-window", help='When installs may begin, UTC, such as 22:30-05:00; "" for always.'),
]
COLUMNS_OF_ALL = [("channel", "name"), ("version", "version")]
COLUMNS = [
    ("channel", "channel"),
    ("version", "version"),
    ("model", "model"),
    ("release", "release"),
    ("rollout", "rollout"),
    ("auditor", "auditor"),
    ("audited", "audited"),
    ("cloud", "cloud"),
    ("sampling", "sampling"),
]


@app.command("show")
def show(
    context: typer.Context,
    channel: Annotated[str, typer.Argument(help="Name of the channel; all when left out.")] = "",
    json: JsonFlag = False,
) -> None:
    """Show what a channel says, or all channels.

    Example: fleet channel show stable
    """
    client = client_of(context)
    documents = [client.channel(channel)] if channel else client.channels()
    if json:
        print_json(documents[0] if channel else {"items": documents})
        return
    print_items([line for document in documents for line in _lines(document)], COLUMNS, json=False, empty="no channels")


@app.command("list")
def list_(context: typer.Context, json: JsonFlag = False) -> None:
    """List all channels.

    Example: fleet channel list
    """
    show(context, "", json)


@app.command("explain")
def explain(
    context: typer.Context, device: Annotated[str, typer.Argument(help="The device's id.")], json: JsonFlag = False
) -> None:
    """Say what a device should run of each model of its channel, and why.

    Example: fleet channel explain kiosk-7
    """
    found = client_of(context).explain_device(device)
    if json:
        print_json(found)
        return
    columns = [(name, name) for name in ("model", "release", "why", "detail", "committed")]
    print_items(found.items, columns, json=False, empty=f"channel {found.channel} names no model")


@app.command("create")
def create(context: typer.Context, channel: ChannelArgument, json: JsonFlag = False) -> None:
    """Create a channel that names no model yet, so that devices can be enrolled before there is a release.

    Example: fleet channel create stable
    """
    from fleet.api.channels import NewChannel

    client = client_of(context)
    client.create_channel(body_of(NewChannel, name=channel))
    _print(client.channel(channel), json=json)


@app.command("remove")
def remove(
    context: typer.Context,
    channel: ChannelArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model.")],
    json: JsonFlag = False,
) -> None:
    """Take a model off a channel; its devices keep serving what they have of it.

    Example: fleet channel remove stable --model digits
    """
    client = client_of(context)
    client.remove_channel_model(channel, model)
    _print(client.channel(channel), json=json)


@app.command("delete")
def delete(context: typer.Context, channel: ChannelArgument, json: JsonFlag = False) -> None:
    """Delete a channel; refused while a device follows it, a claim token leads to it or a rollout runs (exit code 5).

    Example: fleet channel delete stabel
    """
    print_document(client_of(context).delete_channel(channel), COLUMNS_OF_ALL, json=json)


@app.command("set")
def set_(
    context: typer.Context,
    channel: ChannelArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model.")] = "",
    release: Annotated[int | None, typer.Option("--release", help="The default release.")] = None,
    auditor: Annotated[int | None, typer.Option("--auditor", help="The cloud release that audits answers.")] = None,
    audit_share: Annotated[float | None, typer.Option("--audit-share", help="Per cent of requests audited.")] = None,
    cloud: Annotated[bool | None, typer.Option("--cloud/--no-cloud", help="Ask the cloud when unsure.")] = None,
    deadline: Annotated[str, typer.Option("--deadline", help="Bound of one request, such as 1s or 0.2s.")] = "",
    threshold: Annotated[float | None, typer.Option("--threshold", help="Deferral threshold, 0 to 1.")] = None,
    sampling: Annotated[bool | None, typer.Option("--sampling/--no-sampling", help="Record samples.")] = None,
    random_share: Annotated[float | None, typer.Option("--random-share", help="Per cent sampled at random.")] = None,
    uncertain_share: UncertainShare = None,
    probation_requests: ProbationRequests = None,
    probation: Annotated[str, typer.Option("--probation", help="Longest probation, such as 60s.")] = "",
    probation_p95_us: ProbationP95 = None,
    probation_p95_ratio: ProbationRatio = None,
    bench: BenchFlag = None,
    max_rate: MaxRate = None,
    daily_bytes: Annotated[int | None, typer.Option("--daily-bytes", help="Byte budget per day; 0: none.")] = None,
    fetch_window: FetchWindow = None,
    window_requests: Annotated[int | None, typer.Option("--window-requests", help="Requests per window.")] = None,
    window: Annotated[str, typer.Option("--window", help="Longest window, such as 60s.")] = "",
    json: JsonFlag = False,
) -> None:
    """Change a channel: a model's release and policies, or how its devices fetch and report.

    Example: fleet channel set stable --model digits --release 1 --auditor 1 --audit-share 5
    """
    from fleet.api.channels import ChannelChanges, EntryChanges

    client = client_of(context)
    entry = _given(
        release=release,
        audit=_given(auditor=auditor, share_ppm=_ppm(audit_share)),
        routing=_given(cloud=cloud, deadline_ms=_ms(deadline), threshold=threshold),
        sampling=_given(enabled=sampling, random_ppm=_ppm(random_share), uncertain_ppm=_ppm(uncertain_share)),
        probation=_given(
            requests=probation_requests,
            seconds=_seconds(probation),
            max_p95_us=probation_p95_us,
            max_p95_ratio=probation_p95_ratio,
        ),
        bench=_given(on_commit=bench),
    )
    whole = _given(
        fetching=_given(max_bytes_per_s=max_rate, bytes_per_day=daily_bytes, window=fetch_window),
        telemetry=_given(window_requests=window_requests, window_s=_seconds(window)),
    )
    if entry and not model:
        raise typer.BadParameter("these options need --model")
    if not entry and not whole:
        raise typer.BadParameter("nothing to change; see fleet channel set --help")
    if entry and client.set_channel_model(channel, model, body_of(EntryChanges, **entry)).version == 1:
        print_note(f"channel {channel} is new: no device follows it yet")
    if whole:
        client.change_channel(channel, body_of(ChannelChanges, **whole))
    _print(client.channel(channel), json=json)


@app.command("schedule")
def schedule(
    context: typer.Context,
    channel: ChannelArgument,
    window: Annotated[
        str | None, typer.Option("--window", help="Such as 'Mon-Fri 22:00-04:00'; \"\" for any hour.")
    ] = None,
    time_zone: Annotated[str | None, typer.Option("--time-zone", help="Of --window, such as Europe/Berlin.")] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help='Devices per minute, such as 10 or 10:1.5:100:500; "" for none.')
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say when and how fast a channel's rollouts ask devices where nobody says otherwise; without options, show it.

    Rollouts that a retrain starts take it, and `fleet rollout create` does.

    Example: fleet channel schedule stable --window 'Mon-Fri 22:00-04:00' --time-zone Europe/Berlin --rate 10
    """
    from fleet.api.channels import ChannelChanges
    from fleet.cli.scheduling import rate_of

    client = client_of(context)
    changes: dict[str, Any] = _given(window=window, time_zone=time_zone)
    if window and time_zone is None:
        raise typer.BadParameter("--window needs --time-zone, such as Europe/Berlin or UTC")
    if rate is not None:
        changes["rate"] = rate_of(rate) if rate else None
    if changes:
        client.change_channel(channel, body_of(ChannelChanges, schedule=changes))
    found = client.channel(channel)
    if json:
        print_json(found)
    else:
        typer.echo(found.schedule.said() or f"nothing is usual: rollouts of {channel} ask at once, at any hour")


@app.command("cloud")
def cloud_(
    context: typer.Context,
    channel: ChannelArgument,
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model.")],
    when: Annotated[
        str | None, typer.Option("--when", help="never, on-failure, low-confidence, always or speculative.")
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Calls per second and device; 0: any.")] = None,
    daily_bytes: Annotated[int | None, typer.Option("--bytes", help="Bytes of calls per day; 0: any.")] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="A server in the hub's place, https:// or grpcs://; empty: the hub.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="That server's name of the model.")] = "",
    version: Annotated[str, typer.Option("--version", help="That server's version; else none is asked for.")] = "",
    credential: Annotated[str, typer.Option("--credential", help="Of the devices' agent.toml.")] = "",
    json: JsonFlag = False,
) -> None:
    """Say when and how much a model's devices ask the cloud, and whom: the hub, or any Open Inference Protocol server.

    Example: fleet channel cloud stable --model digits --when always --url https://kserve.example --credential kserve
    """
    from fleet.api.channels import EntryChanges

    if url is None and (name or version or credential):
        raise typer.BadParameter("--name, --version and --credential need --url")
    routing = _given(when=when, calls_per_s=rate, calls_bytes_per_day=daily_bytes)
    if url is not None:
        server = {"url": url, "model": name, "version": version, "credential": credential}
        routing["remote"] = server if url else None
    if not routing:
        raise typer.BadParameter("nothing to change; see fleet channel cloud --help")
    client = client_of(context)
    client.set_channel_model(channel, model, body_of(EntryChanges, routing=routing))
    document = client.channel(channel)
    if json:
        print_json(document)
    else:
        print_items(_lines(document), COLUMNS, json=False, empty="the channel names no model yet")


class ChannelLine(Struct, frozen=True, kw_only=True):
    """A channel's line in a table: one of its models, or none yet."""

    channel: str
    version: int
    model: str = ""
    release: int | None = None
    rollout: str = ""
    auditor: int | None = None
    audited: str = ""
    cloud: bool | None = None
    sampling: bool | None = None


def _lines(found: ChannelInfo) -> list[ChannelLine]:
    """One line for each model of a channel."""
    lines = []
    for model, entry in sorted(found.document.models.items()):
        rollout = entry.rollout
        lines.append(
            ChannelLine(
                channel=found.name,
                version=found.version,
                model=model,
                release=entry.release,
                rollout=f"{rollout.release} to {rollout.share_ppm / 1e4:g} %" if rollout is not None else "",
                auditor=entry.audit.auditor,
                audited=f"{entry.audit.share_ppm / 1e4:g} %",
                cloud=entry.routing.cloud,
                sampling=entry.sampling.enabled,
            )
        )
    return lines or [ChannelLine(channel=found.name, version=found.version)]


def _print(document: ChannelInfo, *, json: bool) -> None:
    if json:
        print_json(document)
        return
    print_items(_lines(document), COLUMNS, json=False, empty="the channel names no model yet")


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None and value != {}}


def _ppm(percent: float | None) -> int | None:
    if percent is None:
        return None
    if not 0 <= percent <= 100:
        raise typer.BadParameter("a share lies between 0 and 100 per cent")
    return round(percent * 10_000)


def _seconds(text: str) -> float | None:
    return parse_seconds(text) if text else None


def _ms(text: str) -> int | None:
    return max(1, round(parse_seconds(text) * 1000)) if text else None
