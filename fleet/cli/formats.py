"""`--output table|json|csv`: one option of every command that prints, beside `--json`, which stays."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from fleet.cli.output import as_csv

LISTS = ("list", "rank", "set-aside", "vitals")  # commands whose answer is one list


class Form(StrEnum):
    """The forms in which an answer is printed."""

    table = "table"
    json = "json"


class ListForm(StrEnum):
    """The forms in which a list is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def with_output(app: typer.Typer) -> None:
    """Give `--output` to each command of an application, and of those below it, that has `--json`."""
    for group in app.registered_groups:
        assert group.typer_instance is not None
        with_output(group.typer_instance)
    for command in app.registered_commands:
        assert command.callback is not None
        signature = inspect.signature(command.callback, eval_str=True)
        if "json" in signature.parameters:
            form = ListForm if command.name in LISTS else Form
            command.callback = _asking(command.callback, signature, form)


def _asking(callback: Callable[..., Any], signature: inspect.Signature, form: type[StrEnum]) -> Callable[..., Any]:
    words = f"How to print it: {', '.join(form)}."
    option = inspect.Parameter(
        "output",
        inspect.Parameter.KEYWORD_ONLY,
        default=form["table"],
        annotation=Annotated[form, typer.Option("--output", help=words)],
    )
    parameters = [*signature.parameters.values(), option]

    @functools.wraps(callback)
    def command(*, output: StrEnum, json: bool, **rest: Any) -> Any:
        if json and output == "csv":
            raise typer.BadParameter("--json and --output csv do not go together")
        with as_csv(output == "csv"):
            return callback(json=json or output == "json", **rest)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
