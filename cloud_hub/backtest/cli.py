"""`cloud-hub drift backtest`: what the drift monitor would have said on rows of the past."""

# Annotations stay values here: Typer reads them when the command is made.

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud_hub.backtest.answers import OperatorAnswer, Then
from cloud_hub.errors import InvalidError, UsageError

app = typer.Typer(name="drift", help="Drift of a model's inputs and answers, without a hub.", no_args_is_help=True)
LOOKS = 6  # windows between two looks
DURATION = re.compile(r"[1-9][0-9]{0,6}[smhd]")


NO_ZONE = "times that name no zone were taken for UTC; --time-zone says another"


class OutcomeForm(StrEnum):
    """The form in which the outcome is printed; `csv` is its alarms."""

    table = "table"
    json = "json"
    csv = "csv"


FEATURES_HELP = "INPUT=COLUMN,…, or COLUMN,… of the only input, in its order (the training data's names). Repeatable."
POLICY_HELP = """The model's policy, as a hub takes it: '{"drift": {"baseline": "7d"}}'."""
THEN_HELP = "What is done with an alarm about inputs: rebaseline, usual and close as `fleet drift` does it, or keep."


@app.command("backtest")
def backtest(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="A release directory, as the compiler writes it.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="CSV, .parquet or .npz, each sorted by time.")],
    time: Annotated[str, typer.Option(help="Column of the time: ISO 8601 or Unix seconds.")] = "time",
    device: Annotated[str, typer.Option(help="Column of the device; without it there is one.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="Column that groups devices, as site. Repeatable.")] = None,
    features: Annotated[list[str] | None, typer.Option(help=FEATURES_HELP)] = None,
    label: Annotated[str, typer.Option(help="Column of what was right (classification).")] = "",
    prediction: Annotated[str, typer.Option(help="Column of what the model answered.")] = "",
    label_delay: Annotated[str, typer.Option(help="How long after an answer its label comes.")] = "",
    time_zone: Annotated[str, typer.Option(help="Zone of times that say none; UTC if it is not given.")] = "",
    window: Annotated[str, typer.Option(help="How long a device's window is, as in its channel.")] = "60s",
    window_rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows that end it earlier.")] = 1000,
    look: Annotated[str, typer.Option(help="How often the engine looks: by default every sixth window.")] = "",
    policy: Annotated[str, typer.Option(help=POLICY_HELP)] = "",
    baseline: Annotated[str, typer.Option(help="Short for this period in the policy: 1h, 1d, 7d.")] = "",
    then: Annotated[Then, typer.Option(help=THEN_HELP)] = Then.rebaseline,
    after: Annotated[str, typer.Option(help="How long after it was raised.")] = "1d",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    output: Annotated[
        OutcomeForm, typer.Option(help="How to print it: table, json, csv (the alarms).")
    ] = OutcomeForm.table,
) -> None:
    """Run the drift monitor over rows of the past, and say when it would have alarmed, of what, and what it could not
    tell. It is the engine of the hub, with the data's own time: a device's rows become windows, baselines are made of
    the first ones, and alarms are answered as --then says. No hub is needed, and none is changed.

    Example: cloud-hub drift backtest release history.csv --device machine --group site --window 10m
    """
    from cloud_hub.backtest import report
    from cloud_hub.backtest.columns import ColumnNames, RowReader, columns_of
    from cloud_hub.backtest.files import heading_of, merged
    from cloud_hub.backtest.run import BacktestOptions, run
    from cloud_hub.backtest.times import Moments, zone_of
    from cloud_hub.backtest.windows import WindowMaker

    if as_json and output is OutcomeForm.csv:
        raise UsageError("--json and --output csv do not go together", subject="--output")
    if bool(label) != bool(prediction):
        raise UsageError("--label and --prediction belong together", subject="--label", hint="give both, or none")
    groups, chosen = tuple(group or ()), _features(features or [])
    names = ColumnNames(time=time, device=device, groups=groups, features=chosen, label=label, prediction=prediction)
    label_s = _seconds("--label-delay", label_delay) if label_delay else 0.0
    answer = OperatorAnswer(then=then, after_s=_seconds("--after", after), label_s=label_s)
    window_s = _seconds("--window", window)
    options = BacktestOptions(
        policy=_policy(policy, baseline),
        answer=answer,
        window_s=window_s,
        window_rows=window_rows,
        look_s=_look_s(look, window_s),
    )
    loaded = _load(release)
    moments = [Moments(zone_of(time_zone) if time_zone else None) for _ in files]
    sources = []
    for path, own in zip(files, moments, strict=True):
        columns = columns_of(loaded.manifest, loaded.names, heading_of(path), names)
        sources.append((path, RowReader(loaded.manifest, columns, names, own)))
    maker = WindowMaker(loaded.manifest, loaded.encoder, window_s=options.window_s, most=window_rows)
    with _only_errors():
        outcome = run(merged(sources), loaded.release, maker, options, _say)
    hint = report.small_hint(outcome, options.window_s, options.least)
    remarks = [hint, NO_ZONE if any(one.assumed for one in moments) else ""]
    _print(outcome, list(filter(None, remarks)), OutcomeForm.json if as_json else output)
    if outcome.windows and outcome.small == outcome.windows:
        words = "no window had enough inputs to count, so nothing was watched"
        raise InvalidError(words, subject="--window", hint=hint)


@contextmanager
def _only_errors() -> Iterator[None]:
    """Leave out of the log what the engine says of alarms, which the report tells."""
    log = logging.getLogger("cloud_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _print(outcome: Any, remarks: list[str], form: OutcomeForm) -> None:
    from cloud_hub.backtest import report

    if form is OutcomeForm.csv:
        sys.stdout.write(report.alarms_csv(outcome))
    elif form is OutcomeForm.json:
        sys.stdout.write(report.json_text(outcome, remarks))
    else:
        sys.stdout.write(report.table(outcome, remarks))


def _load(folder: Path) -> Any:
    from cloud_hub.backtest.loading import load

    return load(folder)


def _say(rows: int, at: float) -> None:
    from cloud_hub.backtest.report import moment

    if sys.stderr.isatty():  # a program reads no progress
        print(f"\r{rows:,} rows, until {moment(at)}", end="", file=sys.stderr, flush=True)


def _features(given: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        tensor, equals, columns = text.rpartition("=")
        if tensor in found:
            raise UsageError(f"--features names input {tensor!r} twice", subject="--features")
        found[tensor if equals else ""] = tuple(name.strip() for name in columns.split(","))
    return found


def _seconds(option: str, text: str) -> float:
    from fleet.api.models import seconds_of

    if DURATION.fullmatch(text) is None:
        raise UsageError(f"{option}: {text!r} is no duration", subject=option, hint="for example 90s, 15m, 12h, 30d")
    return seconds_of(text)


def _look_s(text: str, window_s: float) -> float:
    """Return the seconds between two looks of the engine: never more often than windows come."""
    usual = min(max(LOOKS * window_s, 3600.0), 86_400.0)
    return max(_seconds("--look", text) if text else usual, window_s)


def _policy(text: str, baseline: str) -> dict[str, Any]:
    from cloud_hub.drift.policy import policy_of

    try:
        document = json.loads(text) if text else {}
    except ValueError as error:
        raise UsageError(f"--policy is not a JSON document: {error}", subject="--policy") from error
    if not isinstance(document, dict) or not isinstance(document.get("drift", {}), dict):
        raise UsageError("--policy is no object", subject="--policy", hint=POLICY_HELP)
    drift = {**document.get("drift", {}), **({"baseline": baseline} if baseline else {})}
    policy_of({"drift": drift})
    return drift
