"""`fleet experiment`: a model's training runs, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.output import Column, local_time, print_items, print_note
from fleet.cli.session import JsonFlag, client_of
from fleet.errors import NotFoundError

if TYPE_CHECKING:
    from fleet.api.runs import RunInfo

app = typer.Typer(
    name="experiment", help="Training runs of a model, side by side: retrains and searches.", no_args_is_help=True
)
MOST, LOOKED_AT = 20, 5000  # runs that are laid side by side, and among which they are looked for
ModelArgument = Annotated[str, typer.Argument(help="Name of the model.")]


def interval_of(run: RunInfo) -> str:
    """`0.953 (0.94 to 0.966)`; empty where nothing was measured."""
    if run.value is None:
        return ""
    ends = f" ({run.interval[0]:.4g} to {run.interval[1]:.4g})" if run.interval is not None else ""
    return f"{run.value:.4g}{ends}"


def gate_of(run: RunInfo) -> str:
    """`0.93, before 0.91, on 200 labels`; empty where there was no gate."""
    if run.gate.new is None:
        return ""
    before = f", before {run.gate.old:.4g}" if run.gate.old is not None else ""
    return f"{run.gate.new:.4g}{before}" + (f", on {run.gate.labels} labels" if run.gate.labels is not None else "")


def hyper_of(run: RunInfo) -> str:
    """`batch 32, student_rate 0.001`; the recipe's own are not among them."""
    return ", ".join(f"{name} {value:g}" for name, value in sorted(run.hyper.items()))


COLUMNS: list[Column] = [
    ("run", "id"),
    ("kind", "kind"),
    ("state", "state"),
    ("at", "at"),
    ("metric", "metric"),
    ("value", interval_of),
    ("gate", gate_of),
    ("hyper-parameters", hyper_of),
    ("seed", "seed"),
    ("snapshot", lambda run: run.snapshot[:12]),
    ("release", "release"),
    ("best", lambda run: "best" if run.best else ""),
    ("error", "error"),
]


@app.command("list")
def list_(
    context: typer.Context,
    model: ModelArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many runs.")] = 50,
    json: JsonFlag = False,
) -> None:
    """List a model's training runs, those of the newest jobs first; of one search the best trial comes first.

    Hyper-parameters are those that were given in place of the recipe's own.

    Example: fleet experiment list digits
    """
    runs = list(client_of(context).runs(model, limit=limit))
    print_items(runs, COLUMNS, json=json, empty=f"no run of {model} yet; fleet retrain {model}")


@app.command("compare")
def compare(
    context: typer.Context,
    model: ModelArgument,
    runs: Annotated[list[str], typer.Argument(help="Two or more, as `list` calls them; an id's end will do.")],
    json: JsonFlag = False,
) -> None:
    """Lay runs side by side: what differs between them, and what came of each.

    Example: fleet experiment compare digits 01J8ZQ 01J90A
    """
    if not 2 <= len(runs) <= MOST:
        raise typer.BadParameter(f"name from 2 to {MOST} runs; {len(runs)} were named")
    known = list(client_of(context).runs(model, limit=LOOKED_AT))
    chosen = [_one(known, name, model) for name in runs]
    rows = side_by_side(chosen)
    columns: list[Column] = [("of each", "name"), *((run.id, run.id) for run in chosen)]
    print_items(rows, columns, json=json, empty="")
    if len({run.snapshot for run in chosen}) > 1:
        print_note("they were trained on different snapshots: their figures are of different data")
    if len({run.metric for run in chosen}) > 1:
        print_note("they were measured by different metrics")


def side_by_side(runs: list[RunInfo]) -> list[dict[str, Any]]:
    """A row for each thing by which runs differ or that came of them, a column for each run. Pure."""
    rows = [
        {"name": heading, **{run.id: _cell(run, key) for run in runs}} for heading, key in COLUMNS if heading != "run"
    ]
    names = sorted({name for run in runs for name in run.hyper})
    rows += [{"name": name, **{run.id: run.hyper.get(name, "recipe's") for run in runs}} for name in names]
    shown = [row for row in rows if row["name"] != "hyper-parameters"]
    return [row for row in shown if any(row[run.id] not in ("", None, "recipe's") for run in runs)]


def _cell(run: RunInfo, key: Any) -> Any:
    if key == "at":
        return local_time(run.at)
    return key(run) if callable(key) else getattr(run, key)


def _one(known: list[RunInfo], name: str, model: str) -> RunInfo:
    """The run of this id, or the only one whose id ends so."""
    found = [run for run in known if run.id == name] or [run for run in known if run.id.endswith(name)]
    if not found:
        hint = f"see: fleet experiment list {model}"
        raise NotFoundError(f"no run {name!r} of {model}", subject=name, hint=hint)
    if len(found) > 1:
        ids = ", ".join(run.id for run in found[:5])
        raise typer.BadParameter(f"{name!r} means {len(found)} runs: {ids}")
    return found[0]
