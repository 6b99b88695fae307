"""Labels in Label Studio's JSON: a list of tasks, each with `data` and `annotations` of `result`s.

Read are choices and numbers. Everything else, such as a rectangle, is refused with its task: what a picture's pixels
are to the model is not said there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from fleet.api.labels import parse_json, parse_number
from fleet.cli.label_files import Read, settle, text_of

MOST = sys.float_info.max  # a number that is none, or more, is within no bounds
SHOWN = 60  # characters of what a file says


def read_studio(file: Path) -> Read:
    """The labels in a file that Label Studio exported as JSON.

    Raises:
        NotFoundError: no such file.
        BadParameter: it is no list of tasks.
    """
    try:
        document = parse_json(text_of(file))
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}") from None
    if not isinstance(document, list):
        raise typer.BadParameter(f"{file} holds no list of tasks: export the project as JSON")
    return labels_in(document)


def labels_in(tasks: list[Any]) -> Read:
    """The labels of tasks that `fleet sample export` made, each task by itself."""
    found: list[tuple[str, str, Any]] = []
    refused, without = [], 0
    for place, task in enumerate(tasks, 1):
        name = _name(task, place)
        try:
            sample, said = _said(task)
            labels = [_label(results) for results in said]
        except ValueError as error:
            refused.append(f"{name}: {error}")
            continue
        if not labels:
            without += 1
        elif any(label != labels[0] for label in labels):
            refused.append(f"{name}: its {len(labels)} annotations differ: settle them, or delete all but one")
        else:
            found.append((name, sample, labels[0]))
    kept, twice = settle(found)
    return Read(kept, without, (*refused, *twice))


def _name(task: Any, place: int) -> str:
    given = task.get("id") if isinstance(task, Mapping) else None
    return f"task {str(given)[:SHOWN]}" if isinstance(given, (int, str)) else f"task number {place} of the file"


def _said(task: Any) -> tuple[str, list[Any]]:
    """A task's sample, and the results of its annotations that were not skipped."""
    data = task.get("data") if isinstance(task, Mapping) else None
    sample = data.get("sample") if isinstance(data, Mapping) else None
    if not isinstance(sample, str) or not sample.strip():
        raise ValueError("its data names no sample: label what fleet sample export wrote, and export it as JSON")
    annotations = task.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(one, Mapping) for one in annotations):
        raise ValueError("its annotations are no list of objects")
    return sample.strip(), [one.get("result") for one in annotations if not one.get("was_cancelled")]


def _label(results: Any) -> Any:
    """Return the label of one annotation: a class, a list of classes, or a number; ValueError for anything else."""
    if not isinstance(results, list) or not results:
        raise ValueError("an annotation says nothing: choose a class or write a number, or skip the task")
    if len(results) > 1:
        raise ValueError(f"an annotation has {len(results)} results: use one field of choices or one number")
    result = results[0]
    kind, value = (result.get("type"), result.get("value")) if isinstance(result, Mapping) else (None, None)
    if kind == "choices" and isinstance(value, Mapping):
        return _classes(value.get("choices"))
    if kind == "number" and isinstance(value, Mapping):
        number = value.get("number")
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not -MOST <= number <= MOST:
            raise ValueError(f"{str(number)[:SHOWN]!r} is no number")
        return number
    boxes = "; draw boxes on the dashboard, or give them as JSON: fleet sample label SAMPLE=@boxes.json"
    what = f"a result of type {str(kind)[:SHOWN]!r} is not read; choices and number are"
    raise ValueError(what + (boxes if isinstance(kind, str) and kind.startswith("rectangle") else ""))


def _classes(choices: Any) -> Any:
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one.strip() for one in choices):
        raise ValueError("its choices are no list of texts")
    found = [parse_number(one.strip()) for one in choices]
    return found[0] if len(found) == 1 else found
