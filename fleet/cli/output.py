"""Tables for people, JSON for programs. Answers go to standard output, everything else to standard error."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

Column = tuple[str, str]  # heading, key in the document (dots reach inside)


def print_json(document: Any) -> None:
    """One JSON document."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    sys.stdout.write(text.decode() + "\n")


def print_items(items: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, json: bool, empty: str) -> None:
    """A list, as a table or as `{"items": […]}`."""
    if json:
        print_json({"items": items})
        return
    if not items:
        note(empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, _ in columns:
        table.add_column(heading, overflow="fold")
    for item in items:
        table.add_row(*(cell(item, key) for _, key in columns))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_document(document: Mapping[str, Any], columns: Sequence[Column], *, json: bool) -> None:
    """One thing, as lines `name: value` or as JSON."""
    if json:
        print_json(document)
        return
    width = max(len(heading) for heading, _ in columns) + 1
    for heading, key in columns:
        sys.stdout.write(f"{heading + ':':<{width}} {cell(document, key)}\n")


def note(text: str) -> None:
    """A remark for people, kept out of what a program reads."""
    sys.stderr.write(text + "\n")


def cell(item: Mapping[str, Any], key: str) -> str:
    """The value at `key` as text; times (`…_at`, `at`) become local dates."""
    value: Any = item
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None or value == "":
        return "–"
    if key.split(".")[-1].rsplit("_", 1)[-1] in ("at", "until") and isinstance(value, (int, float)):
        return moment(value)
    return text_of(value)


def text_of(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={text_of(inner)}" for key, inner in value.items()) or "–"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(text_of(inner) for inner in value) or "–"
    return str(value)


def moment(seconds: float) -> str:
    """Unix seconds as a local date and time."""
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
