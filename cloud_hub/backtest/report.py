"""The findings of a backtest, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from cloud_hub.backtest.replay import RaisedAlarm
from cloud_hub.backtest.run import Outcome

NAMED = 5  # devices in a cell, and times of silence
SPARE = 1.5  # times the inputs that a window needs
FEW = 0.5  # of the windows; if more have too few rows, that is said first
HEADS = ("alarm", "raised", "about", "since", "where", "distance", "closed", "what")
STREAM_HEADS = ("watched", "baseline", "steady since", "windows", "distance", "evidence", "alarm at")
ABOUT = {"inputs": "inputs", "meaning": "answers", "quality": "data quality", "outliers": "outliers"}


def document(outcome: Outcome, remarks: Sequence[str]) -> dict[str, Any]:
    """All of it, for programs. Times are Unix seconds."""
    monitor = outcome.monitor
    return {
        "began_at": outcome.began,
        "ended_at": outcome.ended,
        "rows": outcome.rows,
        "devices": outcome.devices,
        "refused": outcome.refused,
        "labelled": outcome.labelled,
        "labels_to_come": outcome.labels_to_come,
        "windows": outcome.windows,
        "windows_too_small": outcome.small,
        "alarms": [_alarm(one) for one in outcome.alarms],
        "streams": [
            {**one.model_dump(mode="json"), "steady_at": outcome.steady_at.get((one.kind, one.name))}
            for one in outcome.streams
        ],
        "silences": [{"since": since, "until": until} for since, until in outcome.silences],
        "monitor": monitor.model_dump(mode="json") if monitor is not None else None,
        "remarks": list(remarks),
    }


def table(outcome: Outcome, remarks: Sequence[str]) -> str:
    """For people: alarms, what was watched, and what is to be known of both."""
    parts = [_head(outcome)]
    found = [_cells(one) for one in outcome.alarms]
    parts.append(_table(HEADS, found) if found else "no alarm\n")
    watched = [_stream_cells(outcome, number) for number in range(len(outcome.streams))]
    parts.append(_table(STREAM_HEADS, watched) if watched else "no baseline: there were too few windows\n")
    parts.append("".join(f"- {line}\n" for line in [*remarks, *_notes(outcome)]))
    return "\n".join(parts)


def alarms_csv(outcome: Outcome) -> str:
    """The alarms as CSV (RFC 4180), as the table shows them, with all devices."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADS)
    writer.writerows([_no_formula(cell) for cell in _cells(one, named=10_000)] for one in outcome.alarms)
    return out.getvalue()


def moment(at: float) -> str:
    """Unix seconds for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _head(outcome: Outcome) -> str:
    return (
        f"{outcome.rows:,} rows of {_count(outcome.devices, 'device')} "
        f"from {moment(outcome.began)} to {moment(outcome.ended)} "
        f"UTC made {outcome.windows:,} windows; {_count(len(outcome.alarms), 'alarm')}\n"
    )


def _alarm(one: RaisedAlarm) -> dict[str, Any]:
    return {
        "alarm": one.number,
        "at": one.at,
        "about": ABOUT[one.detail.get("kind", "inputs")],
        "closed_at": one.closed_at,
        "closed": one.closed,
        "detail": one.detail,
    }


def _cells(one: RaisedAlarm, named: int = NAMED) -> list[str]:
    detail = one.detail
    devices, groups = detail.get("devices", []), detail.get("groups", [])
    count = detail.get("device_count", len(devices))
    more = f" and {count - named} more" if count > named else ""
    where = [", ".join(devices[:named]) + more, ", ".join(groups), "fleet" if detail.get("fleet") else ""]
    since = detail.get("since")
    closed = f"{moment(one.closed_at)} {one.closed}" if one.closed_at is not None else "open"
    return [
        str(one.number),
        moment(one.at),
        ABOUT[detail.get("kind", "inputs")] + (" (provisional)" if detail.get("provisional") else ""),
        moment(since) if since is not None else "",
        "; ".join(filter(None, where)),
        f"{detail['distance']:.3f}" if "distance" in detail else "",
        closed,
        str(detail["reason"]),
    ]


def _stream_cells(outcome: Outcome, number: int) -> list[str]:
    one = outcome.streams[number]
    steady = outcome.steady_at.get((one.kind, one.name))
    return [
        f"{one.kind} {one.name}".strip(),
        one.baseline or one.state,
        moment(steady) if steady is not None else "never: nothing is promised",
        str(one.windows),
        f"{one.distance:.3f}",
        f"{one.evidence:.1f}",
        f"{one.alarm_at:.1f}",
    ]


def _notes(outcome: Outcome) -> Iterator[str]:
    if outcome.small:
        yield f"{outcome.small:,} of {outcome.windows:,} windows had too few inputs (min_count) and do not count"
    if outcome.refused:
        yield f"{outcome.refused:,} rows hold NaN or nothing where a device takes numbers alone: they count as refused"
    if outcome.labels_to_come:
        yield f"{outcome.labels_to_come:,} of {outcome.labelled:,} labels had not come by the end (--label-delay)"
    if provisional := sum(bool(one.detail.get("provisional")) for one in outcome.alarms):
        yield f"{_count(provisional, 'alarm')} came before a baseline was steady: such a test promises nothing"
    late = [one for one in outcome.streams if (one.kind, one.name) not in outcome.steady_at]
    if late:
        of = f"{len(late)} of {len(outcome.streams)} baselines"
        yield f"{of} never became steady: what moved little there was not seen"
    longest = sorted(outcome.silences, key=lambda one: one[0] - one[1])[:NAMED]
    for since, until in sorted(longest):
        yield f"nothing that counts came from {moment(since)} to {moment(until)}: the monitor was silent"
    if more := len(outcome.silences) - len(longest):
        yield f"it was silent {more:,} more times, each for a shorter time"
    monitor = outcome.monitor
    if monitor is None:
        return
    yield from (words for words in (monitor.trouble, monitor.uncounted) if words)
    if monitor.state == "no sketch":
        yield "the release has no sketch: where its inputs lie is not watched"
    told = {"left out": monitor.left_out, "data quality": monitor.quality, "outliers": monitor.outliers}
    yield from (f"{name}: {words}" for name, words in told.items() if words)
    labels = monitor.labels
    if labels is not None and labels.now is not None:
        words = f"labels: {labels.counted:,} compared, {100 * labels.now:.0f} % of the latest right ({labels.state})"
        if labels.record is not None and labels.margin is not None:
            words += f"; the record is {100 * labels.record:.0f} % less {100 * labels.margin:.1f} points"
        found = labels.delay_days
        yield words + (f"; 4 points less are found after about {found:.1f} days" if found is not None else "")


def small_hint(outcome: Outcome, window_s: float, least: int) -> str:
    """Words about windows that are too short, where most are; empty where they are not.

    Args:
        outcome: of the backtest.
        window_s: how long they were.
        least: how many inputs a window needs.
    """
    if not outcome.windows or outcome.small <= FEW * outcome.windows:
        return ""
    rate = outcome.rows / max(outcome.devices * (outcome.ended - outcome.began), 1.0)
    wanted = max(SPARE * least / rate, 2 * window_s)
    return (
        f"{outcome.small:,} of {outcome.windows:,} windows have fewer than {least} inputs: "
        f"try --window {_duration(wanted)}, and let devices' channels have windows as long"
    )


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{math.ceil(seconds / length)}{unit}"
    return f"{math.ceil(seconds)}s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        shown.add_column(head, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_harmless(cell)) for cell in row))
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(shown)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _harmless(text: str) -> str:
    """Text in one line, in which what cannot be printed stands as its number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _no_formula(text: str) -> str:
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and len(text) > 0 else text


def json_text(outcome: Outcome, remarks: Sequence[str]) -> str:
    """`document` as text."""
    return json.dumps(document(outcome, remarks), indent=2) + "\n"
