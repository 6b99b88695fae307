"""Labelling the samples of a model that are worth it most, many on one page and by keyboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from cloud_hub.context import Hub
from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import Act, ActDone, ActRequest, Button, Form, ToLabel
from cloud_hub.dashboard.views import boxes
from cloud_hub.dashboard.views import samples as labels
from cloud_hub.errors import HubError, InvalidError
from cloud_hub.samples import box_units, pictures, ranking, series, sounds, store
from cloud_hub.samples.parquet import Arrays
from cloud_hub.store.tables import SampleRow
from cloud_hub.trust.models import task_of_labels
from fleet.api.types import TEXT_LIMIT
from fleet.protocol.task import ANOMALY_SCORE, CLASSIFICATION, DETECTION
from fleet.tasks import Task

COUNT = 20  # samples on a page
CHOICES = 10  # classes: each has a key of its own
YES_NO = [("0", "usual"), ("1", "an anomaly")]


def acts() -> list[Act]:
    """The one act."""
    return [
        Act(path="/act/models/{model}/label", like="POST /api/v1/samples/labels", role="operator", form=_form, do=_do)
    ]


def _form(asked: ActRequest) -> Form:
    hub, model = asked.hub, asked.names["model"]
    task = task_of_labels(hub, model)
    left = ""
    if (ids := _ids(asked)) or asked.given.get("sample-0"):
        rows = [row for one in ids if (row := _found(hub, one)) is not None]
    else:
        found = ranking.ranked(hub, model, count=COUNT, since_alarm=asked.checked("alarm"))
        rows = [store.get(hub, one.id) for one in found.items]
        left = f"Of {found.candidates:,} samples without a label, those come first that teach the model most."
    rows, again = [row for row in rows if row.model == model], asked.checked("again")
    samples, said = _shown(hub, rows, task, asked)
    return Form(
        title=f"Label samples of {model}",
        says=[left, _sentence(labels.wanted_of(task)), said, "What you leave open stays without a label."],
        buttons=[Button(words="Save the labels")],
        back=places.samples(model),
        hidden={f"sample-{place}": one.id for place, one in enumerate(samples)} | ({"again": "yes"} if again else {}),
        samples=samples,
        seen="; ".join(f"{one.id} labelled {one.known}" for one in samples if one.known) or "nothing labelled yet",
        blocked="" if samples else "there is no sample that waits for a label",
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def _ids(asked: ActRequest) -> list[str]:
    """The samples that the page shows, in their order, each once."""
    found = [asked.text(f"sample-{place}") for place in range(COUNT)]
    return list(dict.fromkeys(one for one in found if one))


def _found(hub: Hub, sample: str) -> SampleRow | None:
    try:
        return store.get(hub, sample)
    except HubError:  # deleted while the page was open
        return None


def _shown(hub: Hub, rows: Sequence[SampleRow], task: Task[Any] | None, asked: ActRequest) -> tuple[list[ToLabel], str]:
    """The samples, and what is to be said of their boxes."""
    arrays, options, again = store.arrays_of(hub, rows), choices_of(task), asked.checked("again")
    given = {asked.text(f"sample-{place}"): asked.text(f"label-{place}") for place in range(COUNT)}
    policy = labels.shown_as(hub, asked.names["model"])
    drawn, said = _drawings(rows, arrays, task, policy.boxes, asked.names["model"])
    shown = [
        replace(
            _seen(row, arrays.get(row.id), task, policy.sound),
            options=options,
            given=given.get(row.id, ""),
            open=again or row.label is None,
            drawing=drawn.get(row.id),
            longest=boxes.LONGEST if task is not None and task.name == DETECTION else TEXT_LIMIT,
        )
        for row in rows
    ]
    return shown, said


def _drawings(
    rows: Sequence[SampleRow],
    arrays: Mapping[str, Arrays],
    task: Task[Any] | None,
    unit: box_units.Unit | Literal[""],
    model: str,
) -> tuple[dict[str, boxes.Drawing], str]:
    """Return the pictures that boxes are drawn on, by sample, and the words about their unit; none without boxes."""
    if task is None or task.name != DETECTION:
        return {}, ""
    found = {row.id: box_units.found_by(task, arrays[row.id]) for row in rows if row.id in arrays}
    known = box_units.unit_of(unit, found.values())
    drawn: dict[str, boxes.Drawing] = {}
    if known is not None:
        for row in (row for row in rows if row.id in arrays):
            one = boxes.drawing_of(task, arrays[row.id], known, found[row.id], row.label)
            drawn |= {row.id: one} if one is not None else {}
    return drawn, boxes.in_words(known, unit, model) if rows else ""


def _seen(row: SampleRow, found: Arrays | None, task: Task[Any] | None, rates: Mapping[str, int]) -> ToLabel:
    """Return a sample as the form shows it: its inputs, and its present label."""
    inputs = found.inputs if found is not None else ()
    pictured = pictures.is_pictured(inputs)
    lines = [] if pictured else series.series_of(inputs)
    numbers = series.numbers_of(inputs)
    played = sounds.sounds_in(inputs, rates)
    return ToLabel(
        id=row.id,
        about=f"{row.device_id}, release {row.release}, {row.reason}",
        picture=pictured,
        series=lines,
        sounds=[(name, _sound_in_words(name, *long, rates[name])) for name, long in played.items()],
        numbers=numbers,
        words=pictures.in_words(inputs) if inputs and not lines and not numbers else "",
        answer=labels.answer_in_words(task, found),
        known=f"{labels.label_in_words(task, row.label)} by {row.labelled_by}" if row.label is not None else "",
    )


def _sound_in_words(name: str, length_s: float, played_s: float, rate: int) -> str:
    cut = f"; the first {played_s:.3g} s are played" if length_s > played_s else ""
    return f"{name}: {length_s:.3g} s at {rate:,} Hz{cut}"


def choices_of(task: Task[Any] | None) -> list[tuple[str, str]]:
    """The labels to choose from, with their words: classes, as long as they are few, or whether it is an anomaly."""
    if task is None:
        return []
    if task.name == ANOMALY_SCORE:
        return YES_NO
    if task.name == CLASSIFICATION and len(task.class_names) <= CHOICES:
        return [(str(number), name) for number, name in enumerate(task.class_names)]
    return []


def _do(asked: ActRequest) -> ActDone:
    model = asked.names["model"]
    written = {}
    for place in range(COUNT):
        sample, text = asked.text(f"sample-{place}"), asked.text(f"label-{place}").strip()
        if sample and text:
            wanted = labels.read(sample, text)
            written[wanted.id] = wanted.label
    if not written:
        raise InvalidError("no sample has a label yet", subject="label", hint="choose one for at least one sample")
    actor = asked.caller.actor
    store.label(asked.hub, written, by=actor, actor=actor, again=asked.checked("again"))
    return ActDone(location=places.samples(model))
