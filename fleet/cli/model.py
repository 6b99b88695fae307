"""`fleet model`: the names that applications ask for."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.output import print_document, print_items
from fleet.cli.session import JsonFlag, body_of, client_of

app = typer.Typer(name="model", help="Models: the names that applications ask for.", no_args_is_help=True)
COLUMNS = [("model", "name"), ("recipe", "recipe"), ("next release", "next_release"), ("created", "created_at")]
INTERFACE = [
    ("inputs", "interface.inputs"),
    ("outputs", "interface.outputs"),
    ("task", "interface.task"),
    ("classes", "interface.labels"),
    ("sketch", "interface.sketch_id"),
    ("fixed by release", "interface.release"),
]
NameArgument = Annotated[str, typer.Argument(help="Name of the model.")]


@app.command("create")
def create(
    context: typer.Context,
    name: NameArgument,
    recipe: Annotated[str, typer.Option("--recipe", help="The Python module that trains it.")] = "",
    policy: Annotated[str, typer.Option("--policy", help="JSON: retrain, gate and drift settings.")] = "",
    json: JsonFlag = False,
) -> None:
    """Create a model and bind a recipe to it.

    Example: fleet model create digits --recipe examples.digits.recipe
    """
    import msgspec

    from fleet.api.models import NewModel

    try:
        settings = msgspec.json.decode(policy, type=dict) if policy else None
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"--policy is not a JSON document: {error}") from None
    wanted = body_of(NewModel, name=name, recipe=recipe or None, policy=settings)
    print_document(client_of(context).create_model(wanted), COLUMNS, json=json)


@app.command("list")
def list_(context: typer.Context, json: JsonFlag = False) -> None:
    """List models.

    Example: fleet model list
    """
    print_items(client_of(context).models(), COLUMNS, json=json, empty="no models")


@app.command("show")
def show(context: typer.Context, name: NameArgument, json: JsonFlag = False) -> None:
    """Show one model, and the interface that every release of it keeps.

    Example: fleet model show digits
    """
    print_document(client_of(context).model(name), [*COLUMNS, ("policy", "policy"), *INTERFACE], json=json)
