"""`fleet drift`: has the world moved away from what a model was promoted on?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.output import Column, print_document, print_items, print_json
from fleet.cli.session import JsonFlag, client_of

if TYPE_CHECKING:
    from fleet.api.drift import Agreement

app = typer.Typer(name="drift", help="Drift monitors and their alarms.", no_args_is_help=True)
COLUMNS: list[Column] = [
    ("model", "model"),
    ("state", "state"),
    ("release", "release"),
    ("distance", "distance"),
    ("margin", "margin"),
    ("evidence", "evidence"),
    ("auditor agrees", lambda monitor: _agreement(monitor.audits)),
    ("labels agree", lambda monitor: _agreement(monitor.labels)),
    ("updated", "updated_at"),
]
ALARM_COLUMNS: list[Column] = [
    ("alarm", "id"),
    ("model", "model"),
    ("release", "release"),
    ("status", "status"),
    ("at", "at"),
    ("detail", "detail"),
    ("what follows", lambda alarm: alarm.response.sentence if alarm.response is not None else ""),
]


@app.command("status")
def status(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help="Only this model.")] = "",
    json: JsonFlag = False,
) -> None:
    """Show every monitor and every alarm.

    Example: fleet drift status --model digits
    """
    client = client_of(context)
    monitors = client.drift(model=model)
    alarms = [alarm for alarm in client.alarms() if not model or alarm.model == model]
    if json:
        print_json({"items": monitors, "alarms": alarms})
        return
    print_items(
        monitors, COLUMNS, json=False, empty="no monitor yet: it starts with the first window after a promotion"
    )
    if alarms:
        print_items(alarms, ALARM_COLUMNS, json=False, empty="")


@app.command("close")
def close(
    context: typer.Context,
    alarm: Annotated[int, typer.Argument(help="The alarm's number.")],
    json: JsonFlag = False,
) -> None:
    """Close an alarm.

    Example: fleet drift close 3
    """
    print_document(client_of(context).close_alarm(alarm), ALARM_COLUMNS, json=json)


def _agreement(found: Agreement | None) -> str:
    """`91 % of 240, record 95 % (watching)`."""
    if found is None or found.now is None:
        return ""
    record = f", record {100 * found.record:.0f} %" if found.record is not None else ""
    return f"{100 * found.now:.0f} % of {found.counted}{record} ({found.state})"
