"""Labels as people write them, on the command line and in files, as the JSON that the hub judges by the model's task.

A CSV file is read as spreadsheets and data tools write it: UTF-8 or UTF-16 with a byte order mark, quotes, and commas,
semicolons or tabs between the cells. What could mean two things is refused with its line.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import typer

from fleet.api.labels import parse_json, parse_label, parse_number
from fleet.errors import NotFoundError

SAMPLE_HEADS = ("sample", "sample_id", "id")
LABEL_HEADS = ("label", "class", "value")
THERE, ABSENT = ("1", "1.0", "true"), ("0", "0.0", "false")
FILE_LIMIT = 256 << 20  # bytes


class Line(NamedTuple):
    """A line of a CSV file with its number."""

    number: int
    cells: list[str]


class Read(NamedTuple):
    """The content of a file: labels by sample, how many samples were `without` one, and why others are `refused`."""

    labels: dict[str, Any]
    without: int
    refused: tuple[str, ...]


def label_of(text: str) -> Any:
    """Return the label that `parse_label` reads in a text, or for `@boxes.json` the content of that file; a usage error
    for one that it refuses."""
    if text.strip().startswith("@"):
        path = text.strip()[1:]
        return _json(text_of(Path(path)), path)
    try:
        return parse_label(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text[:60]}: {error}" if text.strip() else str(error)) from None


def read_labels(file: Path) -> dict[str, Any]:
    """The labels in a CSV file, or in a `.json` file that holds an object, by sample.

    Raises:
        NotFoundError: no such file.
        BadParameter: it cannot be read without a guess; the message has the line.
    """
    text = text_of(file)
    if file.suffix.lower() == ".json":
        found = _json(text, str(file))
        if not isinstance(found, dict):
            raise typer.BadParameter(f'{file} holds no object: write {{"SAMPLE": LABEL, …}}')
        return found
    lines = _lines(text, file)
    if lines and lines[0].cells[0].strip().lower() in SAMPLE_HEADS:
        return _with_heading([cell.strip() for cell in lines[0].cells], lines[1:], file)
    for line in lines:
        if len(line.cells) != 2:
            _refuse(
                file, line, f"it has {len(line.cells)} cells, not SAMPLE,LABEL: quote a label that has commas in it"
            )
    return _unique([(line, _cell(file, line, 1)) for line in lines], file)


def read_each(file: Path) -> Read:
    """The labels in a CSV file, line by line: one that cannot be read takes no other along.

    Raises:
        NotFoundError: no such file.
        BadParameter: it is no such file at all: not text, unbalanced quotes, or a heading without a column of labels.
    """
    lines = _lines(text_of(file), file)
    heading = [cell.strip() for cell in lines[0].cells] if lines else []
    names = [name.lower() for name in heading]
    if not names or names[0] not in SAMPLE_HEADS or not set(names[1:]) & set(LABEL_HEADS):
        raise typer.BadParameter(
            f"{file}: the heading names no columns sample and label; fleet sample label reads others"
        )
    column = next(place for place, name in enumerate(names) if place and name in LABEL_HEADS)
    found: list[tuple[str, str, Any]] = []
    refused, without = [], 0
    for line in lines[1:]:
        if len(line.cells) > column and not line.cells[column].strip():
            without += 1
            continue
        try:
            ((sample, label),) = _with_heading(heading, [line], file).items()
        except typer.BadParameter as error:
            refused.append(str(error))
        else:
            found.append((f"{file}, line {line.number}", sample, label))
    labels, twice = settle(found)
    return Read(labels, without, (*refused, *twice))


def settle(found: Sequence[tuple[str, str, Any]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Labels by sample, and what is refused: a sample with two different ones has none.

    Args:
        found: where each was read, its sample, and its label.
    """
    labels: dict[str, Any] = {}
    torn: dict[str, str] = {}
    for where, sample, label in found:
        if sample in labels and labels[sample] != label:
            torn[sample] = f"{where}: sample {sample} has another label before"
        labels.setdefault(sample, label)
    return {sample: label for sample, label in labels.items() if sample not in torn}, tuple(torn.values())


def _with_heading(heading: Sequence[str], lines: Sequence[Line], file: Path) -> dict[str, Any]:
    """Rows below a heading: one column with the label, else one for each class or value."""
    for line in lines:
        if len(line.cells) != len(heading):
            _refuse(file, line, f"it has {len(line.cells)} cells, the heading has {len(heading)}")
    named = [place for place, name in enumerate(heading) if place and name.lower() in LABEL_HEADS]
    if len(heading) == 2 or named:
        column = named[0] if named else 1
        return _unique([(line, _cell(file, line, column)) for line in lines], file)
    if len(heading) < 2 or len(set(heading)) < len(heading) or "" in heading:
        raise typer.BadParameter(f"{file}: the heading needs a name for each column, each once: {', '.join(heading)}")
    columns, rows = heading[1:], [[cell.strip().lower() for cell in line.cells[1:]] for line in lines]
    if all(cell in (*THERE, *ABSENT) for row in rows for cell in row):
        names = [[name for name, cell in zip(columns, row, strict=True) if cell in THERE] for row in rows]
        labels: list[Any] = [found[0] if len(found) == 1 else found for found in names]
    else:
        labels = [[_value(file, line, cell) for cell in row] for line, row in zip(lines, rows, strict=True)]
    return _unique(list(zip(lines, labels, strict=True)), file)


def _cell(file: Path, line: Line, column: int) -> Any:
    text = line.cells[column].strip()
    if not text:
        _refuse(file, line, "a label is empty: delete the line, or write a class by its number or name, such as 7")
    if text.startswith("@"):
        return text  # a name: a file of somebody else's does not say which of ours are read
    try:
        return label_of(text)
    except typer.BadParameter as error:
        _refuse(file, line, str(error))


def _value(file: Path, line: Line, cell: str) -> int | float:
    found = parse_number(cell)
    if isinstance(found, str):
        _refuse(file, line, f"{cell!r} is neither 0 or 1 of a class, nor a number of a value")
    return found


def _unique(labels: Sequence[tuple[Line, Any]], file: Path) -> dict[str, Any]:
    """By sample; one that has two labels is refused with both lines."""
    found: dict[str, tuple[Line, Any]] = {}
    for line, label in labels:
        sample = line.cells[0].strip()
        if not sample:
            _refuse(file, line, "it names no sample")
        if sample in found and found[sample][1] != label:
            _refuse(file, line, f"sample {sample} has another label in line {found[sample][0].number}")
        found[sample] = (line, label)
    return {sample: label for sample, (_, label) in found.items()}


def _lines(text: str, file: Path) -> list[Line]:
    """The rows that are not blank, split at what the first one is split at."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    outside = re.sub(r'"[^"]*"', "", first)
    between = max(",;\t", key=outside.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True)
    csv.field_size_limit(FILE_LIMIT)
    lines: list[Line] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append(Line(reader.line_num, cells))
    except csv.Error as error:
        raise typer.BadParameter(f"{file}, line {reader.line_num}: {error}") from None
    return lines


def text_of(file: Path) -> str:
    """A file's text: UTF-8, or UTF-16 with a byte order mark."""
    if not file.is_file():
        raise NotFoundError(f"no file {file}", subject=str(file))
    if file.stat().st_size > FILE_LIMIT:
        raise typer.BadParameter(f"{file} has more than {FILE_LIMIT >> 20} MiB")
    data = file.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not text in UTF-8; save it as UTF-8") from None
    if "\0" in text:
        raise typer.BadParameter(f"{file} holds NUL characters; save it as UTF-8, or as UTF-16 with a byte order mark")
    return text


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise typer.BadParameter(f"{where}: {error}") from None


def _refuse(file: Path, line: Line, why: str) -> NoReturn:
    raise typer.BadParameter(f"{file}, line {line.number}: {why}")
