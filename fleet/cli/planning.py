"""`fleet rollout plan` and `fleet rollout create`: the same options, looked at beforehand or started."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.api.durations import planned_span
from fleet.cli.output import Column, print_document, print_items, print_json, print_note
from fleet.cli.scheduling import schedule_of
from fleet.cli.session import JsonFlag, body_of, client_of, parse_seconds
from fleet.errors import ConflictError

if TYPE_CHECKING:
    from fleet.api.rollouts import NewRollout
    from fleet.rollouts.forecast import Forecast
    from fleet.rollouts.timetable import Timetable

COLUMNS = [
    ("rollout", "id"),
    ("model", "model"),
    ("release", "release"),
    ("from", "from_release"),
    ("channel", "channel"),
    ("state", "state"),
    ("stage", "stage"),
    ("stages", "stages"),
    ("attempt", "attempt"),
    ("exposed", "exposed_devices"),
    ("shadow", "shadow.judgement"),
    ("verdict", "verdict.judgement"),
    ("healthy means", "verdict.goal"),
    ("untried", "verdict.cohort.untried"),
    ("reason", "reason"),
    ("created", "created_at"),
    ("ended", "ended_at"),
]
STAGE_COLUMNS: list[Column] = [
    ("stage", lambda stage: f"{stage.share_ppm / 10_000:g} %"),
    ("devices", "devices"),
    ("control", "control"),
    ("distinct inputs", "pairs"),
    ("takes", lambda stage: planned_span(stage.seconds)),
]
ModelArgument = Annotated[str, typer.Argument(help="Name of the model.")]
NumberArgument = Annotated[int, typer.Argument(help="The release to roll out.")]
ChannelOption = Annotated[str, typer.Option("--channel", "-c", help="The channel to roll it out on.")]
StagesOption = Annotated[str, typer.Option("--stages", help="Shares of the fleet in per cent.")]
DeadlineOption = Annotated[
    str, typer.Option("--evidence-deadline", help="How long a stage waits for evidence, such as 1h.")
]
NoEvidenceOption = Annotated[str, typer.Option("--on-no-evidence", help="What then: hold (default) or halt.")]
EvidenceOption = Annotated[
    str,
    typer.Option(
        "--evidence",
        help="paired (default: audits); labels or signals, of both releases; install: install health alone.",
    ),
]
MarginOption = Annotated[
    float | None, typer.Option("--margin", help="Points (of 100 requests) that a healthy release may lose; 5.")
]
SoakOption = Annotated[str, typer.Option("--soak", help="How long each stage must stay healthy, such as 10m.")]
P95Option = Annotated[
    float | None,
    typer.Option("--max-p95-us", help="Highest p95 (µs, batch 1) that devices may measure of the release."),
]
MeasuredOption = Annotated[
    int | None, typer.Option("--min-measured", help="Devices that must have measured it before a stage goes on.")
]
GroupOption = Annotated[
    list[str] | None, typer.Option("--group", help="Only devices with this label, key=value; repeatable.")
]
ApprovalOption = Annotated[bool, typer.Option("--approval", help="Each stage waits for `fleet rollout approve`.")]
DevicesOption = Annotated[
    int | None, typer.Option("--min-devices", help="Devices that must have committed the release in a stage.")
]
StartOption = Annotated[
    str, typer.Option("--start-at", help="Begin then, such as 2026-12-01T22:00; with an offset, or in --time-zone.")
]
ExpiryOption = Annotated[str, typer.Option("--expires-at", help="Abort it then if it has not finished.")]
WindowOption = Annotated[
    str, typer.Option("--window", help="Ask devices to join only then, such as 'Mon-Fri 22:00-04:00'.")
]
ZoneOption = Annotated[
    str, typer.Option("--time-zone", help="Of --window, --start-at and --expires-at, such as Europe/Berlin.")
]
RateOption = Annotated[
    str,
    typer.Option(
        "--rate", help="Devices per minute; 10:1.5:100:500 grows 1.5 times after every 100 that succeed, up to 500."
    ),
]
UsualOption = Annotated[
    bool, typer.Option("--usual/--no-usual", help="The channel's usual window and rate hold where these say nothing.")
]
ShadowOption = Annotated[
    str,
    typer.Option(
        "--shadow", help="A shadow stage first: so long (24h), so many distinct inputs (500-inputs), or both."
    ),
]
AgreementOption = Annotated[
    float | None, typer.Option("--shadow-agreement", help="Per cent of the answers that must be the same there; 90.")
]
ShadowDevicesOption = Annotated[
    int | None, typer.Option("--shadow-devices", help="Devices that must compare there; 2.")
]
CpuOption = Annotated[float | None, typer.Option("--shadow-cpu", help="Per cent of a core that a device gives it; 5.")]
GuardOption = Annotated[str, typer.Option("--guard", help="JSON: settings of the guard.")]


def parse_stages(text: str) -> list[float]:
    """`10,50,100` → percentages that rise to 100; a usage error otherwise."""
    try:
        stages = [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of percentages; for example 10,50,100") from None
    rising = all(low < high for low, high in zip([0.0, *stages], stages, strict=False))
    if not rising or stages[-1] != 100:
        raise typer.BadParameter("stages rise and end with 100; for example 10,50,100")
    return [int(stage) if stage.is_integer() else stage for stage in stages]


def guard_of(text: str) -> dict[str, object]:
    """The settings of a guard as JSON, none of an empty text; a usage error for anything else."""
    import msgspec

    try:
        return msgspec.json.decode(text, type=dict[str, object]) if text else {}
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"--guard is not a JSON object: {error}") from None


def _asked(
    name: ModelArgument,
    number: NumberArgument,
    channel: ChannelOption,
    stages: StagesOption = "10,50,100",
    evidence: EvidenceOption = "",
    margin: MarginOption = None,
    evidence_deadline: DeadlineOption = "",
    on_no_evidence: NoEvidenceOption = "",
    soak: SoakOption = "",
    max_p95: P95Option = None,
    min_measured: MeasuredOption = None,
    min_devices: DevicesOption = None,
    approval: ApprovalOption = False,
    group: GroupOption = None,
    start_at: StartOption = "",
    expires_at: ExpiryOption = "",
    window: WindowOption = "",
    time_zone: ZoneOption = "",
    rate: RateOption = "",
    usual: UsualOption = True,
    shadow: ShadowOption = "",
    shadow_agreement: AgreementOption = None,
    shadow_devices: ShadowDevicesOption = None,
    shadow_cpu: CpuOption = None,
    guard: GuardOption = "",
) -> dict[str, object]:
    """Return the options as the fields of a `NewRollout`; a usage error for one that cannot be read."""
    settings = _settings(
        guard,
        evidence,
        margin,
        evidence_deadline,
        on_no_evidence,
        max_p95_us=max_p95,
        min_measured=min_measured,
        min_devices=min_devices,
        approval=approval or None,
    )
    return {
        "model": name,
        "release": number,
        "channel": channel,
        "stages": parse_stages(stages),
        "guard": settings or None,
        "soak_s": parse_seconds(soak) if soak else None,
        "groups": group,
        "schedule": schedule_of(start_at, expires_at, window, time_zone, rate, usual=usual),
        "shadow": shadow_of(shadow, agreement=shadow_agreement, devices=shadow_devices, cpu=shadow_cpu),
    }


def _takes_options(run: Callable[[typer.Context, NewRollout, bool], None]) -> Callable[..., None]:
    """A command with the options of `_asked` and `--json`; `run` gets the rollout that they ask for."""

    def command(context: typer.Context, json: JsonFlag = False, **given: Any) -> None:
        from fleet.api.rollouts import NewRollout

        run(context, body_of(NewRollout, **_asked(**given)), json)

    own = inspect.signature(command, eval_str=True).parameters
    every = [own["context"], *inspect.signature(_asked, eval_str=True).parameters.values(), own["json"]]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]  # which is what Typer reads
    command.__annotations__ = {one.name: one.annotation for one in every}
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    return command


@_takes_options
def plan(context: typer.Context, wanted: NewRollout, json: bool) -> None:
    """Say what a rollout would take and what it lacks, and start nothing; exit code 5 when it could never finish.

    Example: fleet rollout plan digits 2 --channel stable --stages 10,50,100
    """
    found = client_of(context).plan_rollout(wanted)
    if json:
        print_json(found)
    else:
        _print(found.forecast)
    ahead = found.forecast
    if ahead.endless:
        raise ConflictError(f"this rollout could never finish: {ahead.endless}", subject=wanted.channel, hint=ahead.add)


@_takes_options
def create(context: typer.Context, wanted: NewRollout, json: bool) -> None:
    """Start a rollout; its guard promotes it stage by stage, or halts it. One that could never finish is refused.

    Example: fleet rollout create digits 2 --channel stable --stages 10,50,100
    """
    made = client_of(context).create_rollout(wanted)
    print_document(made, COLUMNS, json=json)
    if made.cannot_follow:
        print_note(f"{made.cannot_follow} devices lack what this release requires; they keep what they have")
    for line in made.notes:
        print_note(f"note: {line}")


def _settings(
    guard: str, evidence: str, margin: float | None, deadline: str, on_no_evidence: str, **bounds: float | None
) -> dict[str, object]:
    settings = guard_of(guard)
    if evidence:
        if evidence not in ("paired", "labels", "signals", "install"):
            raise typer.BadParameter("--evidence is paired, labels, signals or install")
        settings["evidence"] = evidence
    if margin is not None:
        settings["margin"] = margin / 100
    if deadline:
        settings["evidence_deadline_s"] = parse_seconds(deadline)
    if on_no_evidence:
        if on_no_evidence not in ("hold", "halt"):
            raise typer.BadParameter("--on-no-evidence is hold or halt")
        settings["on_no_evidence"] = on_no_evidence
    if bounds["min_measured"] is not None and bounds["max_p95_us"] is None:
        raise typer.BadParameter("--min-measured needs --max-p95-us")
    return settings | {key: value for key, value in bounds.items() if value is not None}


def shadow_of(
    text: str, *, agreement: float | None = None, devices: int | None = None, cpu: float | None = None
) -> dict[str, object] | None:
    """`24h`, `500-inputs` or both with a comma, and what else was said of a shadow stage; None without one."""
    given = {
        "agreement": None if agreement is None else agreement / 100,
        "devices": devices,
        "cpu_share": None if cpu is None else cpu / 100,
    }
    found: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if not text:
        if found:
            raise typer.BadParameter("these say how a shadow stage is judged; add --shadow 24h or --shadow 500-inputs")
        return None
    for part in text.split(","):
        number, dash, unit = part.strip().partition("-")
        if dash and unit == "inputs" and number.isdecimal():
            found["inputs"] = int(number)
        else:
            found["seconds"] = parse_seconds(part.strip())
    return found


def _print(found: Forecast) -> None:
    pairs = "too many" if found.pairs is None else f"{found.pairs} in the first stage" if found.pairs else "none"
    power = f", with a chance of {100 * found.power:g} % for a harmless release and for one beyond the margin"
    lines = [
        ("healthy means", found.goal),
        (found.unit, pairs + (power if found.pairs else "")),
        ("traffic", _traffic(found)),
        ("takes", planned_span(found.seconds)),
    ]
    lines += [] if found.timetable is None else _times(found.timetable)
    if (shadow := found.shadow) is not None:
        lasts = f" and {planned_span(shadow.seconds)}" if shadow.seconds else ""
        least = f"; at least {shadow.inputs} distinct inputs{lasts}"
        each = f"{shadow.devices} devices, {100 * shadow.cpu_share:g} % of a core each"
        lines.append(("shadow stage", f"{shadow.goal}{least}; {each}"))
    width = max(len(heading) for heading, _ in lines) + 1
    for heading, text in lines:
        typer.echo(f"{heading + ':':<{width}} {text}")
    print_items(found.stages, STAGE_COLUMNS, json=False, empty="")
    for text in found.evidence:
        typer.echo(f"evidence: {text}")
    for device in found.scope.unable[:20]:
        typer.echo(f"cannot follow: {device.device} lacks {', '.join(device.lacks)}")
    for text in found.notes:
        typer.echo(f"note: {text}")


def _times(table: Timetable) -> list[tuple[str, str]]:
    ordering = sum(stage.ordered_at - stage.begins_at for stage in table.stages)
    return [
        ("begins", table.begins),
        ("orders its devices in", planned_span(ordering) if table.ends_at is not None else "more than ten years"),
        ("ends at the earliest", table.ends or "never"),
    ]


def _traffic(found: Forecast) -> str:
    traffic = found.traffic
    if not traffic.hours:
        return "none in the last day"
    return (
        f"{traffic.requests:.4g} requests and {traffic.audited:.4g} audits per device and day, "
        f"measured over {traffic.hours} h"
    )
