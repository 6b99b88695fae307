"""Tables for people, JSON for programs. Answers go to standard output, everything else to standard error."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

Column = tuple[str, str | Callable[[Any], object]]  # heading, attribute (dots reach inside) or what makes the value


def print_json(document: object) -> None:
    """One JSON document: models with the fields that the hub sent, and plain dictionaries and lists."""
    text = msgspec.json.format(msgspec.json.encode(document, enc_hook=_plain), indent=2)
    sys.stdout.write(text.decode() + "\n")


def print_items(items: Sequence[object], columns: Sequence[Column], *, json: bool, empty: str) -> None:
    """A list of models or mappings, as a table or as `{"items": […]}`."""
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


def print_document(document: object, columns: Sequence[Column], *, json: bool) -> None:
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


def cell(item: object, key: str | Callable[[Any], object]) -> str:
    """The value at `key` as text; times (`…_at`, `at`) become local dates."""
    value: Any = item
    if callable(key):
        value, name = key(item), ""
    else:
        name = key.rsplit(".", 1)[-1].rsplit("_", 1)[-1]
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    if value is None or value == "":
        return "–"
    if name in ("at", "until") and isinstance(value, (int, float)):
        return moment(value)
    return text_of(value)


def text_of(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if hasattr(value, "model_dump"):
        value = _plain(value)
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


def _plain(value: Any) -> Any:
    """A model of `fleet.api` as JSON has it: what the hub sent, and nothing that it did not."""
    return value.model_dump(mode="json", exclude_unset=True)
