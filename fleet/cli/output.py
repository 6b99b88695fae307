"""Tables for people, JSON for programs. Answers go to standard output, everything else to standard error.

Much of what is shown comes from devices, of which one may be hostile: what moves a terminal's cursor, turns text around
or forges a line is shown by its number, and nothing is taken for markup.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import json as standard_json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec

from fleet.protocol.bounds import END_OF_TIME

Column = tuple[str, str | Callable[[Any], object]]  # heading, attribute (dots reach inside) or what makes the value

_as_csv: ContextVar[bool] = ContextVar("as_csv", default=False)


def print_json(document: object) -> None:
    """One JSON document: models with the fields that the hub sent, and plain dictionaries and lists."""
    sys.stdout.write(_json(document, indent=2))


class JsonLines:
    """Prints a document that is looked at again and again, one line (JSON lines) each time that it has changed."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, document: object) -> None:
        """Print it, unless that was done already; whoever reads it has it at once."""
        line = _json(document, indent=-1)
        if line != self._last:
            self._last = line
            sys.stdout.write(line)
            sys.stdout.flush()


def _json(document: object, *, indent: int) -> str:
    text = msgspec.json.format(msgspec.json.encode(document, enc_hook=_plain), indent=indent).decode()
    if not text.isascii() or "\x7f" in text:
        text = _BEYOND_ASCII.sub(_numbered if _takes(text) else _always_numbered, text)
    return text + "\n"


def _takes(text: str) -> bool:
    """Tell whether standard output can encode all letters of a text: a replacement for one would break JSON."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def print_items(items: Sequence[object], columns: Sequence[Column], *, json: bool, empty: str) -> None:
    """A list of models or mappings, as a table, as `{"items": […]}`, or as CSV (see `as_csv`)."""
    if json:
        print_json({"items": items})
        return
    if _as_csv.get():
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([heading for heading, _ in columns])
        writer.writerows([no_formula(cell(item, key, none="")) for _, key in columns] for item in items)
        return
    if not items:
        print_note(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, _ in columns:
        table.add_column(heading, overflow="fold")
    for item in items:
        table.add_row(*(Text(cell(item, key)) for _, key in columns))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@contextlib.contextmanager
def as_csv(wanted: bool) -> Iterator[None]:
    """Print lists as CSV (RFC 4180, with a heading, as the table shows them) in this block."""
    token = _as_csv.set(wanted)
    try:
        yield
    finally:
        _as_csv.reset(token)


def no_formula(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: what a device says is not to be carried out there. Neither where
    semicolons part the cells, as they do in many countries."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", text)


def print_document(document: object, columns: Sequence[Column], *, json: bool) -> None:
    """One thing, as lines `name: value` or as JSON."""
    if json:
        print_json(document)
        return
    width = max(len(heading) for heading, _ in columns) + 1
    for heading, key in columns:
        sys.stdout.write(f"{heading + ':':<{width}} {cell(document, key)}\n")


def print_note(text: str) -> None:
    """A remark for people in one line, kept out of what a program reads."""
    sys.stderr.write(harmless(text) + "\n")


def harmless(text: str) -> str:
    """Text in one line, with what cannot be printed as its number: `\\x1b` for an escape, `\\u202e` for what turns
    text around."""
    return text if text.isprintable() else "".join(map(_letter, text))


def _letter(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def cell(item: object, key: str | Callable[[Any], object], none: str = "–") -> str:
    """The value at `key` as text in one line; times (`…_at`, `at`) become local dates, nothing becomes `none`."""
    value: Any = item
    if callable(key):
        value, name = key(item), ""
    else:
        name = key.rsplit(".", 1)[-1].rsplit("_", 1)[-1]
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    if value is None or value == "":
        return none
    if name in ("at", "until") and isinstance(value, (int, float)):
        return local_time(value)
    text = text_of(value)
    return none if text == "–" else harmless(text)


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


def local_time(seconds: float) -> str:
    """Unix seconds as a local date and time with its distance from UTC; a number that is no moment as it is."""
    if not 0 <= seconds < END_OF_TIME:
        return str(seconds)
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


_FORMULA = re.compile(r"(?:^|(?<=;)|(?<=;\"))(?=[=+\-@＝＋－＠])")
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?")
_BEYOND_ASCII = re.compile(r"[\x7f-\U0010ffff]")


def _numbered(found: re.Match[str]) -> str:
    """A character as it may stand in JSON: itself where it can be printed."""
    return found[0] if found[0].isprintable() else _always_numbered(found)


def _always_numbered(found: re.Match[str]) -> str:
    return standard_json.dumps(found[0])[1:-1]


def _plain(value: Any) -> Any:
    """A model of `fleet.api` as JSON has it: what the hub sent, and nothing that it did not."""
    return value.model_dump(mode="json", exclude_unset=True)
