"""`fleet rollout plan` and `fleet rollout create`: the same options, looked at beforehand or started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.output import Column, note, print_document, print_items, print_json
from fleet.cli.session import JsonFlag, body_of, client_of, parse_seconds
from fleet.errors import ConflictError

if TYPE_CHECKING:
    from fleet.api.rollouts import NewRollout
    from fleet.rollouts.forecast import Forecast

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
    ("takes", lambda stage: duration(stage.seconds)),
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
    str, typer.Option("--evidence", help="paired (default), or install: by time and install health alone.")
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


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best."""
    if seconds is None:
        return "unknown"
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def plan(
    context: typer.Context,
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
    guard: GuardOption = "",
    json: JsonFlag = False,
) -> None:
    """Say what a rollout would take and what it lacks, and start nothing; exit code 5 when it could never finish.

    Example: fleet rollout plan digits 2 --channel stable --stages 10,50,100
    """
    settings = _settings(
        guard, evidence, margin, evidence_deadline, on_no_evidence, max_p95_us=max_p95, min_measured=min_measured,
        min_devices=min_devices, approval=approval or None,
    )  # fmt: skip
    found = client_of(context).plan_rollout(_wanted(name, number, channel, stages, settings, soak, group))
    if json:
        print_json(found)
    else:
        _print(found.forecast)
    ahead = found.forecast
    if ahead.endless:
        raise ConflictError(f"this rollout could never finish: {ahead.endless}", subject=channel, hint=ahead.add)


def create(
    context: typer.Context,
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
    guard: GuardOption = "",
    json: JsonFlag = False,
) -> None:
    """Start a rollout; its guard promotes it stage by stage, or halts it. One that could never finish is refused.

    Example: fleet rollout create digits 2 --channel stable --stages 10,50,100
    """
    settings = _settings(
        guard, evidence, margin, evidence_deadline, on_no_evidence, max_p95_us=max_p95, min_measured=min_measured,
        min_devices=min_devices, approval=approval or None,
    )  # fmt: skip
    made = client_of(context).create_rollout(_wanted(name, number, channel, stages, settings, soak, group))
    print_document(made, COLUMNS, json=json)
    if made.cannot_follow:
        note(f"{made.cannot_follow} devices lack what this release requires; they keep what they have")
    for line in made.notes:
        note(f"note: {line}")


def _settings(
    guard: str, evidence: str, margin: float | None, deadline: str, on_no_evidence: str, **bounds: float | None
) -> dict[str, object]:
    import msgspec

    try:
        settings: dict[str, object] = msgspec.json.decode(guard, type=dict) if guard else {}
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"--guard is not a JSON document: {error}") from None
    if evidence:
        if evidence not in ("paired", "install"):
            raise typer.BadParameter("--evidence is paired or install")
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


def _wanted(
    name: str,
    number: int,
    channel: str,
    stages: str,
    settings: dict[str, object],
    soak: str,
    group: list[str] | None,
) -> NewRollout:
    from fleet.api.rollouts import NewRollout

    return body_of(
        NewRollout,
        model=name,
        release=number,
        channel=channel,
        stages=parse_stages(stages),
        guard=settings or None,
        soak_s=parse_seconds(soak) if soak else None,
        groups=group,
    )


def _print(found: Forecast) -> None:
    pairs = "too many" if found.pairs is None else f"{found.pairs} in the first stage" if found.pairs else "none"
    power = f", with a chance of {100 * found.power:g} % for a harmless release and for one beyond the margin"
    lines = [
        ("healthy means", found.goal),
        ("distinct audited inputs", pairs + (power if found.pairs else "")),
        ("traffic", _traffic(found)),
        ("takes", duration(found.seconds)),
    ]
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


def _traffic(found: Forecast) -> str:
    traffic = found.traffic
    if not traffic.hours:
        return "none in the last day"
    return (
        f"{traffic.requests:.4g} requests and {traffic.audited:.4g} audits per device and day, "
        f"measured over {traffic.hours} h"
    )
