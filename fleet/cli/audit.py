"""`fleet audit`: who did what to what."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.output import print_items
from fleet.cli.session import JsonFlag, SinceOption, body_of, session_of

app = typer.Typer(name="audit", help="The audit log: who did what to what.", no_args_is_help=True)
COLUMNS = [("at", "at"), ("who", "actor"), ("did", "action"), ("to", "subject"), ("detail", "detail")]


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", help="At most this many entries.")] = 100,
    after: Annotated[int | None, typer.Option("--after", help="Only entries after this number, in order.")] = None,
    since: SinceOption = "",
    until: Annotated[str, typer.Option("--until", help="Only of before then, said as for --since.")] = "",
    actor: Annotated[str, typer.Option("--actor", help="Only what this one did, such as operator:3f9c0a1b.")] = "",
    action: Annotated[str, typer.Option("--action", help="Only this deed, such as rollout.abort.")] = "",
    subject: Annotated[
        str, typer.Option("--subject", help="Only what was done to this device, rollout, model, release, …")
    ] = "",
    device: Annotated[str, typer.Option("--device", help="The same as --subject.")] = "",
    json: JsonFlag = False,
) -> None:
    """List changes, newest first.

    Example: fleet audit list --since 2026-11-29 --until 2026-11-30 --action rollout.abort
    """
    from fleet.api.audit import AuditFilter

    session = session_of(context)
    if subject and device and subject != device:
        raise typer.BadParameter("--subject and --device name two things; an entry is about one")
    begin, end = session.since(since), session.since(until) if until else None
    if end is not None and end <= begin:
        raise typer.BadParameter("--until is not after --since: no time is between them")
    wanted = body_of(AuditFilter, since=begin, until=end, actor=actor, action=action, subject=subject or device)
    entries = list(session.client.audit(wanted, limit=limit, after=after, newest=after is None))
    narrowed = wanted != AuditFilter() or after is not None
    print_items(entries, COLUMNS, json=json, empty="nothing is like this" if narrowed else "nothing was changed yet")
