"""`fleet rollout`: staged, guarded updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.output import moment, note, print_document, print_items, print_json
from fleet.cli.session import JsonFlag, TimeoutOption, body_of, client_of, parse_seconds, session_of
from fleet.errors import HaltedError

if TYPE_CHECKING:
    from fleet.api.rollouts import Order, RolloutInfo

app = typer.Typer(name="rollout", help="Rollouts: staged updates under a guard.", no_args_is_help=True)
ENDED = ("finished", "halted", "aborted")
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
    ("untried", "verdict.cohort.untried"),
    ("reason", "reason"),
    ("created", "created_at"),
    ("ended", "ended_at"),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the rollout's history.")]
RolloutArgument = Annotated[str, typer.Argument(help="The rollout's id.")]


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


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    number: Annotated[int, typer.Argument(help="The release to roll out.")],
    channel: Annotated[str, typer.Option("--channel", "-c", help="The channel to roll it out on.")],
    stages: Annotated[str, typer.Option("--stages", help="Shares of the fleet in per cent.")] = "10,50,100",
    evidence_deadline: Annotated[
        str, typer.Option("--evidence-deadline", help="How long a stage waits for evidence, such as 1h.")
    ] = "",
    on_no_evidence: Annotated[str, typer.Option("--on-no-evidence", help="What then: hold (default) or halt.")] = "",
    soak: Annotated[str, typer.Option("--soak", help="How long each stage must stay healthy, such as 10m.")] = "",
    max_p95: Annotated[
        float | None,
        typer.Option("--max-p95-us", help="Highest p95 (µs, batch 1) that devices may measure of the release."),
    ] = None,
    min_measured: Annotated[
        int | None, typer.Option("--min-measured", help="Devices that must have measured it before a stage goes on.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", help="Only devices with this label, key=value; repeatable.")
    ] = None,
    guard: Annotated[str, typer.Option("--guard", help="JSON: settings of the guard.")] = "",
    json: JsonFlag = False,
) -> None:
    """Start a rollout; its guard promotes it stage by stage, or halts it.

    Example: fleet rollout create digits 2 --channel stable --stages 10,50,100
    """
    import msgspec

    try:
        settings: dict[str, object] = msgspec.json.decode(guard, type=dict) if guard else {}
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"--guard is not a JSON document: {error}") from None
    if evidence_deadline:
        settings["evidence_deadline_s"] = parse_seconds(evidence_deadline)
    if on_no_evidence:
        if on_no_evidence not in ("hold", "halt"):
            raise typer.BadParameter("--on-no-evidence is hold or halt")
        settings["on_no_evidence"] = on_no_evidence
    if min_measured is not None and max_p95 is None:
        raise typer.BadParameter("--min-measured needs --max-p95-us")
    settings |= {
        key: value for key, value in (("max_p95_us", max_p95), ("min_measured", min_measured)) if value is not None
    }
    from fleet.api.rollouts import NewRollout

    wanted = body_of(
        NewRollout,
        model=name,
        release=number,
        channel=channel,
        stages=parse_stages(stages),
        guard=settings or None,
        soak_s=parse_seconds(soak) if soak else None,
        groups=group,
    )
    made = client_of(context).create_rollout(wanted)
    print_document(made, COLUMNS, json=json)
    if made.cannot_follow:
        note(f"{made.cannot_follow} devices lack what this release requires; they keep what they have")


@app.command("status")
def status(
    context: typer.Context,
    rollout: Annotated[str, typer.Argument(help="The rollout's id; all when left out.")] = "",
    json: JsonFlag = False,
) -> None:
    """Show one rollout with its evidence and history, or all of them.

    Example: fleet rollout status
    """
    client = client_of(context)
    if not rollout:
        print_items(client.rollouts(), COLUMNS, json=json, empty="no rollouts")
        return
    document, events = client.rollout(rollout), client.rollout_events(rollout)
    if json:
        print_json({**document.model_dump(mode="json", exclude_unset=True), "events": events})
        return
    print_document(document, [*COLUMNS, ("evidence", "verdict.reason")], json=False)
    print_items(
        events, [("at", "at"), ("event", "event"), ("detail", "detail.reason")], json=False, empty="no events yet"
    )


@app.command("watch")
def watch(
    context: typer.Context, rollout: RolloutArgument, timeout: TimeoutOption = 86_400.0, json: JsonFlag = False
) -> None:
    """Follow a rollout until it ends; exit code 7 when it was halted or aborted, 8 on a timeout.

    Example: fleet rollout watch r-7 --timeout 600
    """
    session = session_of(context)
    seen: set[int | str] = set()

    def show(found: RolloutInfo) -> None:
        lacks = found.verdict.reason if found.verdict is not None else ""
        if lacks.startswith("not enough evidence") and lacks not in seen:
            seen.add(lacks)
            note(lacks)
        for event in session.client.rollout_events(rollout):
            if event.id not in seen:
                seen.add(event.id)
                note(f"{moment(event.at)}  {event.event}  {event.detail.reason}")

    document = session.follow(
        lambda: session.client.rollout(rollout),
        ended=ENDED,
        show=show,
        timeout_s=timeout,
        subject=f"rollout {rollout}",
    )
    print_document(document, COLUMNS, json=json)
    if document.state != "finished":
        raise HaltedError(
            f"rollout {rollout} was {document.state}: {document.reason or 'no reason given'}",
            subject=rollout,
            hint=f"fleet rollout status {rollout}",
        )


def _order(context: typer.Context, rollout: str, order: Order, reason: str, json: bool) -> None:
    print_document(client_of(context).order_rollout(rollout, order, reason=reason), COLUMNS, json=json)


@app.command("pause")
def pause(context: typer.Context, rollout: RolloutArgument, reason: ReasonOption = "", json: JsonFlag = False) -> None:
    """Stop promoting; devices keep what they have.

    Example: fleet rollout pause r-7
    """
    _order(context, rollout, "pause", reason, json)


@app.command("resume")
def resume(context: typer.Context, rollout: RolloutArgument, reason: ReasonOption = "", json: JsonFlag = False) -> None:
    """Go on after a pause.

    Example: fleet rollout resume r-7
    """
    _order(context, rollout, "resume", reason, json)


@app.command("abort")
def abort(context: typer.Context, rollout: RolloutArgument, reason: ReasonOption = "", json: JsonFlag = False) -> None:
    """End a rollout; its devices return to the channel's release at once.

    Example: fleet rollout abort r-7
    """
    _order(context, rollout, "abort", reason, json)


@app.command("retry")
def retry(context: typer.Context, rollout: RolloutArgument, reason: ReasonOption = "", json: JsonFlag = False) -> None:
    """Let devices that rolled back try this rollout once more.

    Example: fleet rollout retry r-7
    """
    _order(context, rollout, "retry", reason, json)
