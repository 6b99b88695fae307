"""Samples as tasks for people who label, and their labels on the way back to the hub."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fleet.cli.answered import class_of, confidence_of
from fleet.errors import FleetError, NotFoundError

if TYPE_CHECKING:
    from fleet.api.samples import SampleArray, SampleInfo
    from fleet.client import Client

AT_ONCE = 500  # labels of one request: a refused one costs another request with the others
HEARD_EVERY = 200  # samples, each of which is a request
MOST_REFUSED = 1000  # by the hub; then the file is the wrong one
VALUES, SHOWN = 256, 4000  # values of an input, and characters of all of them, that a task shows
HEADING = ("sample", "label", "device", "release", "reason", "confidence", "edge said", "cloud said", "inputs")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets run when a cell begins with it


class Sent(NamedTuple):
    """The labels that the hub took, its refusals with their reasons, and the labels not tried after too many of
    them."""

    labelled: int
    refused: list[str]
    untried: int


def write_tasks(
    client: Client, samples: Iterable[SampleInfo], *, studio: bool, hear: Callable[[int], None]
) -> tuple[str, int, int]:
    """Label Studio's JSON, or CSV; how many tasks it has, and how many samples were gone meanwhile.

    `hear` is told now and then how many samples were read: the hub is asked for each by itself.
    """
    rows: list[Any] = []
    gone = 0
    for place, sample in enumerate(samples):
        if place and place % HEARD_EVERY == 0:
            hear(place)
        try:
            rows.append(_task(client, sample) if studio else _row(client, sample))
        except NotFoundError:
            gone += 1
    if studio:
        return json.dumps(rows, ensure_ascii=False, allow_nan=False, indent=1) + "\n", len(rows), gone
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([HEADING, *rows])
    return text.getvalue(), len(rows), gone


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


def in_words(inputs: Iterable[SampleArray]) -> str:
    """A sample's inputs as text: a lone text as it is, else each by its name and its first values."""
    arrays = list(inputs)
    if len(arrays) == 1 and arrays[0].datatype == "BYTES" and len(arrays[0].data) == 1:
        text = str(arrays[0].data[0])
    else:
        text = "; ".join(
            f"{array.name}: {', '.join(map(str, array.data[:VALUES]))}" + (", …" if len(array.data) > VALUES else "")
            for array in arrays
        )
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _task(client: Client, sample: SampleInfo) -> dict[str, Any]:
    """`data.sample` leads back; `data.image` is a picture (a data URI), or `data.text` the inputs."""
    data: dict[str, Any] = {
        "sample": sample.id,
        "model": sample.model,
        "device": sample.device_id,
        "release": sample.release,
        "reason": sample.reason,
        "confidence": sample.confidence,
    }
    try:
        data["image"] = "data:image/png;base64," + base64.b64encode(client.picture(sample.id)).decode()
    except NotFoundError:  # no image, or no such sample any more: then the next request says so
        data["text"] = in_words(client.sample(sample.id).inputs)
    return {"data": data}


def _row(client: Client, sample: SampleInfo) -> list[str]:
    detail = client.sample(sample.id)
    edge = class_of(sample.prediction)
    cells = (
        sample.id,
        "",
        sample.device_id,
        sample.release,
        sample.reason,
        confidence_of(sample),
        in_words(detail.outputs) if edge is None else edge,
        class_of(sample.cloud_prediction),
        in_words(detail.inputs),
    )
    return ["" if cell is None else _cell(cell) for cell in cells]


def _cell(value: object) -> str:
    """Text that a spreadsheet takes for text: inputs come from devices."""
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else text
