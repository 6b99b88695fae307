"""`fleet model`: the names that applications ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.output import print_document, print_items, print_note
from fleet.cli.session import JsonFlag, body_of, client_of

if TYPE_CHECKING:
    from fleet.api.models import AnswersByLabels, ModelInfo, ShareOfRight

app = typer.Typer(name="model", help="Models: the names that applications ask for.", no_args_is_help=True)
COLUMNS = [
    ("model", "name"),
    ("recipe", "recipe"),
    ("next release", "next_release"),
    ("disputed", "disputed"),
    ("created", "created_at"),
]
INTERFACE = [
    ("inputs", "interface.inputs"),
    ("outputs", "interface.outputs"),
    ("task", "interface.task"),
    ("classes", "interface.labels"),
    ("preprocessing", "interface.preprocess"),
    ("sketch", "interface.sketch_id"),
    ("fixed by release", "interface.release"),
]
RIGHT: list[tuple[str, str | Callable[[AnswersByLabels], object]]] = [
    ("by labels, release", "release"),
    ("device right", lambda answers: _in_words(answers.device)),
    ("where the cloud was asked: device right", lambda answers: _in_words(answers.asked_device)),
    ("cloud right", lambda answers: _in_words(answers.asked_cloud)),
    ("asking the cloud", "reason"),
]
NameArgument = Annotated[str, typer.Argument(help="Name of the model.")]


@app.command("create")
def create(
    context: typer.Context,
    name: NameArgument,
    recipe: Annotated[str, typer.Option("--recipe", help="The Python module that trains it.")] = "",
    policy: Annotated[str, typer.Option("--policy", help="JSON: how drift is watched and labels are checked.")] = "",
    json: JsonFlag = False,
) -> None:
    """Create a model and bind a recipe to it.

    Example: fleet model create digits --recipe examples.digits.recipe
    """
    from fleet.api.models import NewModel

    wanted = body_of(NewModel, name=name, recipe=recipe or None, policy=_settings(policy))
    print_document(client_of(context).create_model(wanted), COLUMNS, json=json)


@app.command("list")
def list_(context: typer.Context, json: JsonFlag = False) -> None:
    """List models.

    Example: fleet model list
    """
    models = client_of(context).models()
    print_items(models, COLUMNS, json=json, empty="no models")
    for found in models:
        _say_disputed(found)


@app.command("show")
def show(context: typer.Context, name: NameArgument, json: JsonFlag = False) -> None:
    """Show one model, the interface that every release of it keeps, and how right its answers are by labels.

    Example: fleet model show digits
    """
    found = client_of(context).model(name)
    print_document(found, [*COLUMNS, ("policy", "policy"), *INTERFACE], json=json)
    if not json:
        for answers in found.answers:
            print_document(answers, RIGHT, json=False)
    _say_disputed(found)


@app.command("change")
def change(
    context: typer.Context,
    name: NameArgument,
    recipe: Annotated[str, typer.Option("--recipe", help="The Python module that trains it.")] = "",
    no_recipe: Annotated[bool, typer.Option("--no-recipe", help="No recipe trains it any more.")] = False,
    policy: Annotated[str, typer.Option("--policy", help="JSON: settings to merge into the policy.")] = "",
    min_release: Annotated[
        int | None, typer.Option("--min-release", help="Forbid every release below; this cannot be undone.")
    ] = None,
    interface_from: Annotated[
        int | None,
        typer.Option("--interface-from", help="The release whose interface holds, where releases disagree."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Change a model's recipe, policy or floor, or choose the release whose interface holds.

    The choice is for a model whose releases disagree on inputs, outputs or classes, as releases of 0.1 may: nothing is
    published before. Applications that rely on another release's interface are left behind.

    Example: fleet model change digits --interface-from 2
    """
    from fleet.api.models import ModelChanges

    if recipe and no_recipe:
        raise typer.BadParameter("give --recipe or --no-recipe")
    wanted = body_of(
        ModelChanges,
        recipe="" if no_recipe else recipe or None,
        policy=_settings(policy),
        min_release=min_release,
        interface_from=interface_from,
    )
    if not wanted.model_fields_set:
        raise typer.BadParameter("nothing to change; see fleet model change --help")
    print_document(client_of(context).change_model(name, wanted), [*COLUMNS, ("policy", "policy")], json=json)


@app.command("delete")
def delete(context: typer.Context, name: NameArgument, json: JsonFlag = False) -> None:
    """Delete a model with its releases; refused while anything names it (exit code 5), and what does is said.

    Example: fleet model delete digitz
    """
    print_document(client_of(context).delete_model(name), COLUMNS[:2], json=json)
    print_note("its numbers are not used again; its blobs are removed after a day")


def _settings(text: str) -> dict[str, Any] | None:
    import msgspec

    try:
        return msgspec.json.decode(text, type=dict) if text else None
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"--policy is not a JSON document: {error}") from None


def _in_words(found: ShareOfRight | None) -> str:
    if found is None:
        return "not enough evidence"
    low, share, high = (f"{100 * value:.1f}" for value in (found.low, found.share, found.high))
    return f"{share} % ({low} to {high} %, {found.samples} labels)"


def _say_disputed(found: ModelInfo) -> None:
    if found.disputed:
        numbers = ", ".join(str(number) for number in found.disputed)
        print_note(
            f"releases {numbers} of {found.name} disagree on its interface; nothing is published before you choose:"
        )
        print_note(f"fleet model change {found.name} --interface-from N")
