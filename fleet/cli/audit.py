"""`fleet audit`: who did what to what."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.output import print_items
from fleet.cli.session import JsonFlag, client_of

app = typer.Typer(name="audit", help="The audit log: who did what to what.", no_args_is_help=True)
COLUMNS = [("at", "at"), ("who", "actor"), ("did", "action"), ("to", "subject"), ("detail", "detail")]


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", help="At most this many entries.")] = 100,
    after: Annotated[int | None, typer.Option("--after", help="Only entries after this number.")] = None,
    json: JsonFlag = False,
) -> None:
    """List changes.

    Example: fleet audit list --limit 20
    """
    entries = list(client_of(context).audit(limit=limit, after=after))
    print_items(entries, COLUMNS, json=json, empty="nothing was changed yet")
