"""`fleet audit`: who did what to what."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.output import print_items
from fleet.cli.session import JsonFlag, SinceOption, session_of

app = typer.Typer(name="audit", help="The audit log: who did what to what.", no_args_is_help=True)
COLUMNS = [("at", "at"), ("who", "actor"), ("did", "action"), ("to", "subject"), ("detail", "detail")]


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", help="At most this many entries.")] = 100,
    after: Annotated[int | None, typer.Option("--after", help="Only entries after this number, in order.")] = None,
    since: SinceOption = "",
    device: Annotated[str, typer.Option("--device", help="Only what was done to this device.")] = "",
    json: JsonFlag = False,
) -> None:
    """List changes, newest first.

    Example: fleet audit list --since 1d --device kiosk-7
    """
    session = session_of(context)
    entries = session.client.audit(
        limit=limit, after=after, newest=after is None, since=session.since(since), subject=device
    )
    print_items(list(entries), COLUMNS, json=json, empty="nothing was changed yet")
