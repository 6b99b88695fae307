"""`fleet tune`: search a recipe's hyper-parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.job import COLUMNS, watch_job
from fleet.cli.output import print_document
from fleet.cli.session import JsonFlag, TimeoutOption, body_of, client_of, parse_pairs, parse_seconds, session_of
from fleet.errors import UsageError

if TYPE_CHECKING:
    from fleet.api.hyper import HyperOptions

HyperOption = Annotated[
    list[str] | None, typer.Option("--hyper", help="NAME=NUMBER in place of the recipe's own; repeat.")
]


def tune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    search: Annotated[
        list[str], typer.Option("--search", help="NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C; repeat.")
    ],
    trials: Annotated[int, typer.Option("--trials", help="How many to try.")] = 20,
    for_: Annotated[str, typer.Option("--for", help="Begin no trial after this time, such as 2h.")] = "",
    parallel: Annotated[int, typer.Option("--parallel", help="How many at a time.")] = 1,
    halving: Annotated[
        bool, typer.Option("--halving", help="Begin with few epochs, and let only the best third go on, twice.")
    ] = False,
    snapshot: Annotated[str, typer.Option("--snapshot", help="The dataset; a new one when left out.")] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the search and of all trials.")] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Retrain with the best numbers.")] = False,
    channel: Annotated[str, typer.Option("--channel", help="Put that release on this channel.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    timeout: TimeoutOption = 3600.0,
    json: JsonFlag = False,
) -> None:
    """Start a search over the hyper-parameters of a model's recipe. Trials are scored on the recipe's validation set.

    Example: fleet tune digits --search student_rate=1e-4..1e-2:log --search batch=32,64,128 --trials 20 --retrain
    """
    from fleet.api.jobs import RetrainOptions, TuneOptions

    if channel and not retrain:
        raise UsageError("a channel needs a release", subject="--channel", hint="add --retrain")
    options = body_of(
        TuneOptions,
        space={one: _tried(one, text) for one, text in parse_pairs(search).items()},
        trials=trials,
        for_s=parse_seconds(for_) if for_ else None,
        parallel=parallel,
        halving=halving or None,
        snapshot=snapshot or None,
        seed=seed,
        retrain=body_of(RetrainOptions, channel=channel or None) if retrain else None,
    )
    job = client_of(context).tune(name, options)
    if wait:
        watch_job(session_of(context), job.id, timeout_s=timeout, json=json)
    else:
        print_document(job, COLUMNS, json=json)


def hyper_of(pairs: list[str] | None) -> HyperOptions | None:
    """The numbers of `--hyper`; None without any."""
    from fleet.api.hyper import WHOLE, HyperOptions

    if not pairs:
        return None
    found: dict[str, Any] = {name: _number(name, text, "--hyper") for name, text in parse_pairs(pairs).items()}
    whole = {name: int(value) for name, value in found.items() if name in WHOLE and value.is_integer()}
    return body_of(HyperOptions, **found | whole)


def _tried(name: str, text: str) -> Any:
    """A range or values, as JSON has them."""
    if ".." not in text:
        return [_number(name, part) for part in text.split(",")]
    body, colon, scale = text.partition(":")
    if colon and scale != "log":
        raise UsageError(f"{name}: {scale!r} is no scale", subject="--search", hint=f"{name}={body}:log, or without it")
    low, _, high = body.partition("..")
    return {"low": _number(name, low), "high": _number(name, high), "log": bool(colon)}


def _number(name: str, text: str, option: str = "--search") -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "such as 0.01, 1e-4..1e-2 or 32,64,128" if option == "--search" else "such as 0.01 or 32"
        raise UsageError(f"{name}: {text!r} is no number", subject=option, hint=hint)
    return value
