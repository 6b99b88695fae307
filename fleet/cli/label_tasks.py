"""Samples as tasks for people who label, and their labels on the way back to the hub."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from fleet.api.labelling import MOST_TASKS, BoxUnit
from fleet.cli.answered import class_of, confidence_of
from fleet.cli.label_config import config_of
from fleet.errors import ConflictError, FleetError
from fleet.protocol.task import DETECTION

if TYPE_CHECKING:
    from fleet.api.labelling import LabelTask, LabelTasks
    from fleet.api.samples import SampleInfo
    from fleet.client import Client

AT_ONCE = 500  # labels of one request: a refused one costs another request with the others
HEARD_EVERY = 1000  # samples
MOST_REFUSED = 1000  # by the hub; then the file is the wrong one
HEADING = ("sample", "label", "device", "release", "reason", "confidence", "edge said", "cloud said", "inputs")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets run when a cell begins with it


class Written(NamedTuple):
    """Tasks as the `text` of a file, with Label Studio's configuration; how many there are, how many samples were gone
    meanwhile, and of how many the inputs do not stand there whole."""

    text: str
    config: str
    samples: int
    gone: int
    cut: int


class Sent(NamedTuple):
    """The labels that the hub took, its refusals with their reasons, and the labels not tried after too many of
    them."""

    labelled: int
    refused: list[str]
    untried: int


def write_tasks(client: Client, samples: Iterable[SampleInfo], *, studio: bool, hear: Callable[[int], None]) -> Written:
    """Read samples from the hub, many at a time, and write them as Label Studio's JSON, or as CSV.

    `hear` is told now and then how many samples were read.

    Raises:
        ConflictError: boxes cannot be drawn, since nothing tells what their numbers count.
    """
    rows: list[Any] = []
    counts = dict.fromkeys(("gone", "cut"), 0)
    form = ""
    boxes: BoxUnit = ""
    done = 0
    for batch in _batches(samples):
        by_id, left = {sample.id: sample for sample in batch}, [sample.id for sample in batch]
        told = done // HEARD_EVERY
        while left:
            found = client.label_tasks(batch[0].model, left, boxes=boxes, words=not studio)
            boxes = found.boxes
            if studio and found.items and not form:
                form = config_of(found, _drawable(found, batch[0].model))
            rows += [(_task if studio else _row)(found, one, by_id[one.id]) for one in found.items]
            counts["cut"] += sum(one.cut for one in found.items)
            counts["gone"] += len(left) - len(found.items) - len(found.left)
            left = found.left
        done += len(batch)
        if done // HEARD_EVERY > told:
            hear(done)
    if studio:
        return Written(
            json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=1) + "\n", form, len(rows), **counts
        )
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([HEADING, *rows])
    return Written(text.getvalue(), "", len(rows), **counts)


def _batches(samples: Iterable[SampleInfo]) -> Iterator[list[SampleInfo]]:
    """Samples of one model, as many at a time as the hub gives."""
    some = iter(samples)
    while batch := list(islice(some, MOST_TASKS)):
        yield batch


def _drawable(found: LabelTasks, model: str) -> LabelTask:
    """The first task, of which the configuration is made; ConflictError where its boxes cannot be drawn."""
    first = found.items[0]
    if found.task == DETECTION and first.box is None:
        why = "no answer tells what the numbers of its boxes count" if first.kind == "image" else "it shows no picture"
        unit = f'fleet model change {model} --policy \'{{"samples": {{"boxes": "pixels"}}}}\''
        hint = f"say it, pixels or share: {unit}" if first.kind == "image" else "give them as JSON: --format csv"
        raise ConflictError(f"nobody can draw boxes on samples of {model}: {why}", subject=model, hint=hint)
    return first


def send_each(client: Client, labels: Mapping[str, Any], *, by: str) -> Sent:
    """Write labels down; those that the hub refuses by their sample stay out, and the others are sent again.

    Raises:
        FleetError: what the hub refuses for another reason, such as a token that may not.
    """
    keys = list(labels)
    refused: list[str] = []
    labelled = 0
    for start in range(0, len(keys), AT_ONCE):
        left = {key: labels[key] for key in keys[start : start + AT_ONCE]}
        while left:
            try:
                client.label_samples(left, by=by)  # what an earlier try has written down changes nothing
            except FleetError as error:
                if error.subject not in left:
                    raise
                del left[error.subject]
                refused.append(_refused(error))
                if len(refused) >= MOST_REFUSED:
                    return Sent(labelled, refused, len(keys) - labelled - len(refused))
            else:
                break
        labelled += len(left)
    return Sent(labelled, refused, 0)


def _refused(error: FleetError) -> str:
    """The reason for which a label was refused, and what one may be."""
    why = str(error).removesuffix("; nothing was labelled")
    return f"{why}; {error.hint}" if error.hint else why


def _task(found: LabelTasks, shown: LabelTask, sample: SampleInfo) -> dict[str, Any]:
    """A task: `data.sample` leads back, `data.task` says how to read its annotations, and what `kind` says is shown."""
    data: dict[str, Any] = {
        "sample": sample.id,
        "task": found.task,
        "model": sample.model,
        "device": sample.device_id,
        "release": sample.release,
        "reason": sample.reason,
        "confidence": confidence_of(sample),
        shown.kind: getattr(shown, shown.kind),
    }
    if shown.text:
        data["text"] = shown.text
    if found.values > 1:
        data["values"] = found.values
    if shown.box is not None:
        data["box"] = list(shown.box)
    return {"data": data}


def _row(found: LabelTasks, shown: LabelTask, sample: SampleInfo) -> list[str]:
    edge = class_of(sample.prediction)
    cells = (
        sample.id,
        "",
        sample.device_id,
        sample.release,
        sample.reason,
        confidence_of(sample),
        shown.answer or ("" if edge is None else edge),
        class_of(sample.cloud_prediction),
        shown.text,
    )
    return ["" if cell is None else _cell(cell) for cell in cells]


def _cell(value: object) -> str:
    """Text that a spreadsheet takes for text: inputs come from devices."""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else text
