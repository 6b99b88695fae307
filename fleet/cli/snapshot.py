"""`fleet snapshot`: immutable datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.output import print_document, print_items
from fleet.cli.session import JsonFlag, ModelOption, client_of

app = typer.Typer(name="snapshot", help="Snapshots: immutable datasets of samples and labels.", no_args_is_help=True)
COLUMNS = [
    ("snapshot", "id"),
    ("model", "model"),
    ("samples", "samples"),
    ("labelled", "labelled"),
    ("bytes", "size_bytes"),
    ("created", "created_at"),
]


@app.command("create")
def create(context: typer.Context, model: ModelOption, json: JsonFlag = False) -> None:
    """Freeze what was collected for a model into a snapshot.

    Example: fleet snapshot create --model digits
    """
    print_document(client_of(context).create_snapshot(model), COLUMNS, json=json)


@app.command("list")
def list_(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help="Only of this model.")] = "",
    json: JsonFlag = False,
) -> None:
    """List snapshots.

    Example: fleet snapshot list
    """
    rows = [row for row in client_of(context).snapshots() if not model or row.model == model]
    print_items(rows, COLUMNS, json=json, empty="no snapshots")


@app.command("delete")
def delete(
    context: typer.Context,
    snapshot: Annotated[str, typer.Argument(help="The snapshot's id.")],
    json: JsonFlag = False,
) -> None:
    """Delete a snapshot that no release comes from and no job needs.

    Example: fleet snapshot delete 4b227777d4dd1fc6
    """
    print_document(client_of(context).delete_snapshot(snapshot), COLUMNS, json=json)
