"""`fleet rollout`: staged, guarded updates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli import planning, watching
from fleet.cli.output import JsonLines, local_time, print_document, print_items, print_json, print_note
from fleet.cli.planning import COLUMNS
from fleet.cli.session import JsonFlag, Session, SinceOption, TimeoutOption, client_of, session_of
from fleet.errors import HaltedError

if TYPE_CHECKING:
    from fleet.api.rollouts import Order, RolloutInfo

app = typer.Typer(name="rollout", help="Rollouts: staged updates under a guard.", no_args_is_help=True)
ENDED = ("finished", "halted", "aborted")
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the rollout's history.")]
StageOption = Annotated[
    int | None,
    typer.Option(
        "--stage", min=0, help="Only if it is at this stage (0: shadow); the one that it is at now by default."
    ),
]
RolloutArgument = Annotated[str, typer.Argument(help="The rollout's id.")]


app.command("plan")(planning.plan)
app.command("create")(planning.create)


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
    more = [("schedule", "waits"), ("shadow evidence", "shadow.reason"), ("evidence", "verdict.reason")]
    print_document(document, [*COLUMNS, *more], json=False)
    print_items(
        events, [("at", "at"), ("event", "event"), ("detail", "detail.reason")], json=False, empty="no events yet"
    )


@app.command("list")
def list_(
    context: typer.Context,
    since: SinceOption = "",
    device: Annotated[str, typer.Option("--device", help="Only those that this device has reported of.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many rollouts.")] = 100,
    json: JsonFlag = False,
) -> None:
    """List rollouts, newest first.

    Example: fleet rollout list --since 30d --device kiosk-7
    """
    session = session_of(context)
    found = session.client.rollouts(limit=limit, since=session.since(since), device=device)
    print_items(found, COLUMNS, json=json, empty="no rollouts")


@app.command("watch")
def watch(
    context: typer.Context, rollout: RolloutArgument, timeout: TimeoutOption = 86_400.0, json: JsonFlag = False
) -> None:
    """Follow a rollout until it ends; exit code 7 when it was halted or aborted, 8 on a timeout.

    On a terminal, a table shows its devices, its evidence, how long that will take, and who failed why. With --json
    each change is a line of JSON, the last one is where it ended.

    Example: fleet rollout watch r-7 --timeout 600
    """
    session = session_of(context)
    follow = _follow_live if sys.stderr.isatty() else _follow
    document = follow(session, rollout, timeout, JsonLines() if json else lambda found: None)
    if not json:
        print_document(document, COLUMNS, json=False)
    if document.state != "finished":
        raise HaltedError(
            f"rollout {rollout} was {document.state}: {document.reason or 'no reason given'}",
            subject=rollout,
            hint=f"fleet rollout status {rollout}",
        )


def _follow_live(session: Session, rollout: str, timeout_s: float, tell: Callable[[RolloutInfo], None]) -> RolloutInfo:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, redirect_stdout=False) as live:

        def show(found: RolloutInfo) -> None:
            tell(found)
            live.update(watching.table_of(found, session.client.rollout_events(rollout)), refresh=True)

        return _until_it_ends(session, rollout, timeout_s, show)


def _until_it_ends(
    session: Session, rollout: str, timeout_s: float, show: Callable[[RolloutInfo], None]
) -> RolloutInfo:
    return session.follow(
        lambda: session.client.rollout(rollout),
        ended=ENDED,
        show=show,
        timeout_s=timeout_s,
        subject=f"rollout {rollout}",
    )


def _follow(session: Session, rollout: str, timeout_s: float, tell: Callable[[RolloutInfo], None]) -> RolloutInfo:
    """Say each event, each wait and each lack of evidence once."""
    seen: set[int | str] = set()

    def show(found: RolloutInfo) -> None:
        tell(found)
        if found.waits.startswith("waits") and found.waits not in seen:
            seen.add(found.waits)
            print_note(f"it {found.waits}")
        judged = found.shadow if found.stage == 0 else found.verdict
        lacks = judged.reason if judged is not None else ""
        if lacks.startswith("not enough evidence") and lacks not in seen:
            seen.add(lacks)
            print_note(lacks)
        for event in session.client.rollout_events(rollout):
            if event.id not in seen:
                seen.add(event.id)
                print_note(f"{local_time(event.at)}  {event.event}  {event.detail.reason}")

    return _until_it_ends(session, rollout, timeout_s, show)


def _order(context: typer.Context, rollout: str, order: Order, reason: str, json: bool) -> None:
    print_document(client_of(context).order_rollout(rollout, order, reason=reason), COLUMNS, json=json)


def _end_stage(context: typer.Context, rollout: str, order: Order, reason: str, stage: int | None, json: bool) -> None:
    """Order the end of the stage that is meant, or of the one that the rollout is at when this command reads it."""
    client = client_of(context)
    meant = stage if stage is not None else client.rollout(rollout).stage
    print_document(client.order_rollout(rollout, order, reason=reason, stage=meant), COLUMNS, json=json)


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


@app.command("approve")
def approve(
    context: typer.Context,
    rollout: RolloutArgument,
    stage: StageOption = None,
    reason: ReasonOption = "",
    json: JsonFlag = False,
) -> None:
    """Let a stage end, now or once it is healthy, of a rollout that was created with --approval.

    Example: fleet rollout approve r-7 --stage 1
    """
    _end_stage(context, rollout, "approve", reason, stage, json)


@app.command("promote")
def promote(
    context: typer.Context,
    rollout: RolloutArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the history and the audit log.")],
    stage: StageOption = None,
    json: JsonFlag = False,
) -> None:
    """End a stage by hand, whatever is known by then: the next one begins, or the release becomes the default.

    Example: fleet rollout promote r-7 --stage 2 --reason "checked on the spot"
    """
    _end_stage(context, rollout, "promote", reason, stage, json)
