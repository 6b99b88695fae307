"""A model's samples as people label them: what the device answered, and what is right, in the words of the task."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from pydantic import ValidationError
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.drift import labelled
from cloud_hub.drift.deferring import WORSE, Estimate
from cloud_hub.errors import InvalidError
from cloud_hub.samples import parquet, pictures, sounds, store
from cloud_hub.samples.answers import device_answer
from cloud_hub.store.tables import SampleRow
from cloud_hub.trust.rows import get_model, label_task
from fleet.api.labels import parse_label
from fleet.api.models import SamplePolicy
from fleet.api.samples import SampleLabel
from fleet.protocol.errors import MalformedError
from fleet.tasks import Task

SAMPLES = 50
SHOWN = 100  # characters of an answer or a label
NUMBERS = 6  # of an answer that is a vector


class SampleView(Struct, frozen=True, kw_only=True):
    """A sample's line: its row, and inputs, answer and label in words; `pictured`: it has an input that is an image."""

    row: SampleRow
    inputs: str
    pictured: bool
    answer: str
    label: str


class RightView(Struct, frozen=True, kw_only=True):
    """A release's line: how right it is by labels, how right both are where the cloud was asked, and if that pays."""

    release: int
    device: str
    asked_device: str
    asked_cloud: str
    worse: bool
    reason: str


class SamplesPage(Struct, frozen=True, kw_only=True):
    """Everything on the page; `wanted` says what a label is."""

    model: str
    task: str
    wanted: str
    samples: list[SampleView]
    right: list[RightView]


def page_of(hub: Hub, model: str) -> SamplesPage:
    """The newest samples of a model; NotFoundError when there is no such model."""
    with hub.reading() as session:
        get_model(session, model)
        task = label_task(session, model)
        query = select(SampleRow).where(SampleRow.model == model, col(SampleRow.deleted_at).is_(None))
        rows = list(session.exec(query.order_by(col(SampleRow.received_at).desc(), col(SampleRow.id)).limit(SAMPLES)))
    found = store.arrays_of(hub, rows)
    views = [
        SampleView(
            row=row,
            inputs=pictures.in_words(found[row.id].inputs) if row.id in found else "–",
            pictured=row.id in found and pictures.is_pictured(found[row.id].inputs),
            answer=answer_in_words(task, found.get(row.id)),
            label=label_in_words(task, row.label),
        )
        for row in rows
    ]
    return SamplesPage(
        model=model,
        task=task.name if task is not None else "none",
        wanted=wanted_of(task),
        samples=views,
        right=[_right(found) for found in labelled.judged(hub, model)],
    )


def shown_as(hub: Hub, model: str) -> SamplePolicy:
    """Return the settings by which samples of a model are shown to people.

    Raises:
        NotFoundError: there is no such model.
    """
    with hub.reading() as session:
        return sounds.policy_of(get_model(session, model).policy)


def _right(found: labelled.ByLabels) -> RightView:
    said = found.judgment
    device, asked_device, asked_cloud = map(_share, (said.device, said.asked_device, said.asked_cloud))
    return RightView(
        release=found.release,
        device=device,
        asked_device=asked_device,
        asked_cloud=asked_cloud,
        worse=said.verdict == WORSE,
        reason=said.reason,
    )


def _share(found: Estimate | None) -> str:
    if found is None:
        return "not enough evidence"
    low, share, high = (f"{100 * value:.1f}" for value in (found.low, found.share, found.high))
    return f"{share} % ({low} to {high} %)"


def read(sample: str, text: str) -> SampleLabel:
    """The label that a person wrote; InvalidError where it is none."""
    try:
        return SampleLabel(id=sample, label=parse_label(text))
    except ValidationError as error:
        why = str(error.errors(include_url=False, include_input=False)[0]["msg"]).removeprefix("Value error, ")
        raise InvalidError(f"sample {sample[:SHOWN]}: {why}", subject="label") from None
    except ValueError as error:
        raise InvalidError(f"sample {sample[:SHOWN]}: {error}", subject="label") from None


def wanted_of(task: Task[Any] | None) -> str:
    """Return the task's words about the labels that it takes."""
    try:
        return "" if task is None else str(task.label(None))
    except MalformedError as error:
        return error.hint


def answer_in_words(task: Task[Any] | None, arrays: parquet.Arrays | None) -> str:
    """Return the device's answer in words: class names, numbers, or a dash where nobody can say."""
    if task is None or arrays is None:
        return "–"
    try:
        answer = device_answer(task, arrays)
    except MalformedError:
        return "unreadable"
    return "–" if answer is None else _cut(_in_words(task, answer))


def _in_words(task: Task[Any], answer: Any) -> str:
    if task.summarises == "classes":
        return _classes_in_words(task, task.classes(answer))
    numbers = np.asarray(answer).reshape(-1)
    told = ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in numbers[:NUMBERS].tolist())
    return told + (f", … ({numbers.size})" if numbers.size > NUMBERS else "")


def _classes_in_words(task: Task[Any], numbers: tuple[int, ...]) -> str:
    names = dict(enumerate(task.class_names))
    counted = Counter(names.get(number, str(number)) for number in numbers)
    return ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in counted.items()) or "nothing"


def label_in_words(task: Task[Any] | None, label: Any) -> str:
    """A label as the task keeps it: class names, else its JSON; empty without one."""
    if label is None:
        return ""
    if task is not None and task.summarises == "classes":
        items = label if isinstance(label, list) else [label]
        numbers = tuple(item["class"] if isinstance(item, dict) else item for item in items)
        return _cut(_classes_in_words(task, numbers))
    return _cut(label if isinstance(label, str) else msgspec.json.encode(label).decode())


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
