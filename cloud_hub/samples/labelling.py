"""Samples as tasks for people: what is shown of an input, many at a time, each partition read once."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.samples import box_units, parquet, pictures, series, sounds, store
from cloud_hub.samples.answers import device_answer
from cloud_hub.samples.box_units import as_label, found_by, unit_of
from cloud_hub.store.tables import SampleRow
from cloud_hub.trust.rows import get_model, label_task
from fleet.api.labelling import BoxUnit, LabelTask, LabelTasks, WantedTasks
from fleet.api.models import SamplePolicy
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import Array
from fleet.protocol.task import CLASSIFICATION, DETECTION, REGRESSION
from fleet.protocol.tensors import from_array
from fleet.tasks import Task

MOST_BYTES = 24 << 20  # of an answer's pictures, sounds and texts; the rest is asked for again
CELL, SHOWN = 32_000, 4000  # characters of all inputs: what a spreadsheet's cell holds, and what a person reads
POINTS = 4000  # of a channel over time
CHANNELS = 12


def tasks_for(hub: Hub, wanted: WantedTasks) -> LabelTasks:
    """Return samples as tasks, in the order asked for, as many as one answer may hold.

    Raises:
        NotFoundError: there is no such model.
    """
    with hub.reading() as session:
        policy = sounds.policy_of(get_model(session, wanted.model).policy)
        task = label_task(session, wanted.model)
        query = select(SampleRow).where(SampleRow.model == wanted.model, col(SampleRow.deleted_at).is_(None))
        rows = {row.id: row for row in session.exec(query.where(col(SampleRow.id).in_(wanted.ids)))}
    arrays = store.arrays_of(hub, list(rows.values()))
    ids = [one for one in dict.fromkeys(wanted.ids) if one in rows and one in arrays]
    unit: BoxUnit = policy.boxes or wanted.boxes or _unit(task, [arrays[one] for one in ids])
    items: list[LabelTask] = []
    spent = 0
    for place, one in enumerate(ids):
        item = _task(one, arrays[one], task, policy, unit, words=wanted.words)
        spent += len(item.image) + len(item.sound) + len(item.text) + 16 * sum(map(len, item.series.values()))
        if items and spent > MOST_BYTES:
            return _answer(task, unit, items, ids[place:])
        items.append(item)
    return _answer(task, unit, items, [])


def _answer(task: Task[Any] | None, unit: BoxUnit, items: list[LabelTask], left: list[str]) -> LabelTasks:
    return LabelTasks(
        task=task.name if task is not None else "",
        classes=list(task.class_names) if task is not None else [],
        values=_width(task),
        boxes=unit,
        items=items,
        left=left,
    )


def _width(task: Task[Any] | None) -> int:
    """Numbers of a regression's label; 1 for other tasks, and where its output leaves them open."""
    if task is None or task.name != REGRESSION:
        return 1
    sizes = task.outputs[0].shape[1:] or (1,)
    return 1 if -1 in sizes else int(np.prod(sizes))


def _unit(task: Task[Any] | None, found: Sequence[parquet.Arrays]) -> BoxUnit:
    if task is None or task.name != DETECTION:
        return ""
    return unit_of("", [found_by(task, one) for one in found]) or ""


def _task(
    key: str, found: parquet.Arrays, task: Task[Any] | None, policy: SamplePolicy, unit: str, *, words: bool
) -> LabelTask:
    whole, cut = in_words(found.inputs, CELL if words else SHOWN)
    told: dict[str, Any] = {"kind": "text", "text": whole}
    if not words:
        told = _shown(found.inputs, task, policy.sound)
        if told["kind"] == "text" or len(found.inputs) > 1:
            told["text"] = whole
    boxed = told["kind"] == "image" and task is not None and task.name == DETECTION and unit
    box = _box(found.inputs, unit) if boxed else None
    return LabelTask(id=key, cut=cut and "text" in told, box=box, answer=answer_of(task, found), **told)


def _shown(inputs: Sequence[Array], task: Task[Any] | None, rates: Mapping[str, int]) -> dict[str, Any]:
    """The first of the inputs that is more than text, as a person sees it best."""
    large = task is not None and task.name == DETECTION
    picture = pictures.picture_of(inputs, pictures.LARGE if large else pictures.SIDE)
    if picture is not None:
        return {"kind": "image", "image": _uri("image/png", picture)}
    for name in sounds.sounds_in(inputs, rates):
        sound = sounds.sound_of(inputs, name, rates)
        if sound is not None:
            return {"kind": "sound", "sound": _uri("audio/wav", sound)}
    for array in inputs:
        over = series.over_time(array)
        if over is not None:
            return {"kind": "series", "series": _channels(over)}
    table = series.numbers_of(inputs)
    return {"kind": "table", "table": dict(table)} if table else {"kind": "text"}


def _channels(table: Any) -> dict[str, list[float | None]]:
    """Values by channel over time, every n-th of long ones; null for what is no number."""
    step = max(1, -(-len(table) // POINTS))
    times: dict[str, list[float | None]] = {"time": [float(place) for place in range(0, len(table), step)]}
    channels: dict[str, list[float | None]] = {
        f"channel_{number + 1}": [float(f"{value:.6g}") if np.isfinite(value) else None for value in column[::step]]
        for number, column in enumerate(table.T[:CHANNELS])
    }
    return times | channels


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _box(inputs: Sequence[Array], unit: str) -> tuple[float, float] | None:
    extent = pictures.extent_of(inputs)
    if extent is None:
        return None
    across, down = extent.covered
    return (across, down) if unit == "pixels" else (across / extent.width, down / extent.height)


def in_words(inputs: Sequence[Array], most: int) -> tuple[str, bool]:
    """Inputs as text: a lone text as it is, else each by its name and its values; and whether some were cut off.

    Args:
        inputs: a sample's.
        most: characters.
    """
    said = []
    for array in inputs:
        try:
            values = from_array(array).ravel()
        except MalformedError:
            said.append(f"{array.name}: unreadable")
            continue
        shown = [_value(value) for value in values[:most].tolist()]  # each takes a character at least
        alone = len(inputs) == 1 and array.datatype == "BYTES" and len(values) == 1
        said.append(shown[0] if alone else f"{array.name}: {', '.join(shown)}")
    text = "; ".join(said)
    return (text, False) if len(text) <= most else (text[: most - 1] + "…", True)


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def answer_of(task: Task[Any] | None, found: parquet.Arrays) -> str:
    """Return a device's answer as a label would say it, in JSON: boxes, classes by name, numbers; empty where nobody
    can say, and of a classification, whose class the sample itself has."""
    if task is None or task.name in (CLASSIFICATION, "embedding"):
        return ""
    try:
        answer = device_answer(task, found)
    except MalformedError:
        return ""
    if answer is None:
        return ""
    if task.name == DETECTION:
        names = list(task.class_names)
        told: Any = [{**box, "class": names[box["class"]]} for box in as_label(answer, len(names), box_units.MOST)]
    elif task.summarises == "classes":
        told = [task.class_names[number] for number in task.classes(answer)]
    else:
        numbers = [float(f"{value:.6g}") for value in task.values(answer) if np.isfinite(value)]
        told = numbers[0] if len(numbers) == 1 else numbers
    return msgspec.json.encode(told).decode()
