"""`fleet drift`: has the world moved away from what a model was promoted on?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.output import Column, local_time, print_document, print_items, print_json
from fleet.cli.session import JsonFlag, body_of, client_of

if TYPE_CHECKING:
    from fleet.api.drift import Agreement, MonitorInfo

app = typer.Typer(name="drift", help="Drift monitors and their alarms.", no_args_is_help=True)
COLUMNS: list[Column] = [
    ("model", "model"),
    ("release", "release"),
    ("state", "state"),
    ("use", lambda monitor: _use(monitor)),
    ("devices", lambda monitor: ", ".join(f"{count} {state}" for state, count in sorted(monitor.streams.items()))),
    ("most evidence", "leading"),
    ("distance", "distance"),
    ("evidence", "evidence"),
    ("alarm at", "limit"),
    ("least effect", "least_effect"),
    ("auditor agrees", lambda monitor: _agreement(monitor.audits)),
    ("labels agree", lambda monitor: _agreement(monitor.labels)),
    ("data quality", "quality"),
    ("outliers", "outliers"),
    ("left out", "left_out"),
    ("last window", "last_window_at"),
    ("silent since", lambda monitor: _moment(monitor.silent_since)),
    ("trouble", lambda monitor: "; ".join(filter(None, (monitor.unwatched or monitor.trouble, monitor.uncounted)))),
    ("updated", "updated_at"),
]
STREAM_COLUMNS: list[Column] = [
    ("kind", "kind"),
    ("name", "name"),
    ("release", "release"),
    ("baseline", lambda stream: stream.baseline or stream.state),
    ("made", lambda stream: _moment(stream.based_at) if stream.baseline else ""),
    ("windows", "windows"),
    ("distance", "distance"),
    ("evidence", "evidence"),
    ("alarm at", lambda stream: stream.alarm_at),  # evidence, no time
    ("since", lambda stream: _moment(stream.since) if stream.evidence > 0 else ""),
    ("alarm", lambda stream: stream.alarm or ""),
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
    """Show every monitor and every alarm. A model has a monitor for each release that is a channel's default or that
    devices serve; of one that is not watched any more, nothing is known.

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


@app.command("show")
def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    release: Annotated[int | None, typer.Option("--release", min=1, help="Only of this release.")] = None,
    kind: Annotated[str, typer.Option("--kind", help="Only device, group or fleet.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 100,
    json: JsonFlag = False,
) -> None:
    """Show where a model's inputs are watched, what has most evidence that they have moved first.

    A baseline is waiting (too few windows), provisional (it does not say yet what is usual: only what lies far outside
    raises an alarm, and nothing is promised), a period, or a week, which knows the hours and days (UTC), once three
    weeks are there and these explain what moves; `made` says since when.

    Example: fleet drift show digits --kind device
    """
    streams = client_of(context).drift_streams(model, release=release, kind=kind, limit=limit)
    print_items(streams, STREAM_COLUMNS, json=json, empty="nothing yet: it starts with the first windows")


@app.command("rebaseline")
def rebaseline(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    device: Annotated[list[str] | None, typer.Option("--device", help="Only this device; repeatable.")] = None,
    release: Annotated[int | None, typer.Option("--release", min=1, help="Only of this release.")] = None,
    baseline: Annotated[str, typer.Option("--baseline", help="Over this period from now on: 1h, 1d, 7d.")] = "",
    json: JsonFlag = False,
) -> None:
    """Take what devices see from now on for what is usual, as after a change that is meant; it is in the audit log.

    Until the period is over the test is provisional. Without --device all devices begin anew, and alarms about inputs
    are closed; without --release that is done for every release of the model that is watched.

    Example: fleet drift rebaseline digits --baseline 7d
    """
    from fleet.api.models import DriftPolicy, ModelChanges, ModelPolicy

    if baseline and (device or release):
        words = "the period is the whole model's: give --baseline without --device and --release, or leave it out"
        raise typer.BadParameter(words)
    client = client_of(context)
    if baseline:
        given = client.model(model).policy.drift
        known = given.model_dump(exclude_unset=True) if isinstance(given, DriftPolicy) else {}
        drift = body_of(DriftPolicy, **known | {"baseline": baseline})
        client.change_model(model, ModelChanges(policy=body_of(ModelPolicy, drift=drift)))
    columns: list[Column] = [
        ("model", "model"),
        ("releases", lambda found: ", ".join(map(str, found.releases))),
        ("begun anew", "streams"),
    ]
    print_document(client.rebaseline(model, device or None, release=release), columns, json=json)


@app.command("close")
def close(
    context: typer.Context,
    alarm: Annotated[int, typer.Argument(help="The alarm's number.")],
    usual: Annotated[
        bool, typer.Option("--usual", help="What it showed is usual at these hours, as at weekends: learn it.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Close an alarm. What it names goes on being watched against the same baseline; see rebaseline for a new one.

    Without --usual, what came while it was open teaches nothing about the week.

    Example: fleet drift close 3 --usual
    """
    print_document(client_of(context).close_alarm(alarm, usual=usual), ALARM_COLUMNS, json=json)


def _use(monitor: MonitorInfo) -> str:
    """`default, on 12 devices`."""
    if monitor.unwatched or not monitor.release:
        return ""
    devices = "1 device" if monitor.devices == 1 else f"{monitor.devices} devices"
    return f"default, on {devices}" if monitor.default else f"on {devices}"


def _points(margin: float | None) -> str:
    """`1 point`, of a share."""
    return f"{100 * (margin or 0.0):.3g} point{'' if margin == 0.01 else 's'}"


def _agreement(found: Agreement | None) -> str:
    """`91 % of 240, record 95 % less 1 point (watching)`."""
    if found is None or found.now is None:
        return ""
    record = f", record {100 * found.record:.0f} % less {_points(found.margin)}" if found.record is not None else ""
    return f"{100 * found.now:.0f} % of {found.counted}{record} ({found.state}){_delay(found)}"


def _delay(found: Agreement) -> str:
    """`; 4 points less are found after about 3200 (3.7 days)`."""
    if found.record is None:
        return ""
    if found.delay is None or found.delay_days is None:
        return "; 4 points less would not be found yet"
    return f"; 4 points less are found after about {found.delay:.0f} ({found.delay_days:.1f} days)"


def _moment(at: float | None) -> str:
    return "" if at is None else local_time(at)
