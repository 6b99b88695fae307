"""Labels in Label Studio's JSON: a list of tasks, each with `data` and `annotations` of `result`s."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from fleet.api.labels import parse_json
from fleet.cli.label_files import Read, settle, text_of
from fleet.cli.label_results import SHOWN, read_label


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
            sample, labels = _said(task)
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
    """A task's sample, and the labels of its annotations that were not skipped."""
    data = task.get("data") if isinstance(task, Mapping) else None
    sample = data.get("sample") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(sample, str) or not sample.strip():
        raise ValueError("its data names no sample: label what fleet sample export wrote, and export it as JSON")
    annotations = task.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(one, Mapping) for one in annotations):
        raise ValueError("its annotations are no list of objects")
    return sample.strip(), [read_label(one.get("result"), data) for one in annotations if not one.get("was_cancelled")]
