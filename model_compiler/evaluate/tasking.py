"""The task that a release shall name, and what is measured of it by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from msgspec.structs import replace as replace_spec

from fleet import tasks
from fleet.protocol.codec import from_document
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.task import CLASSIFICATION, TaskSpec
from fleet.protocol.tensors import datatype_of
from model_compiler import metrics
from model_compiler.errors import CompilerError, InterfaceError
from model_compiler.evaluate.task_metrics import metric_for
from model_compiler.inputs.dataset import Array
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import Metric, Outputs

FLAGS = {"true": True, "false": False}
LEAST_AGREEMENT = 0.75  # of self-test vectors; the tolerance of the numbers is the finer net
GROUPS = 6  # of values, by quantiles
LOWEST = 1e-3  # a detection's mean average precision is over boxes of any score


def parse(text: str) -> TaskSpec:
    """A task as the command line names it: `regression:tolerance=0.5,low=0`.

    Raises:
        CompilerError: no such task or setting; the message lists those that exist.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or key not in TaskSpec.__struct_fields__ or key == "name":
            known = ", ".join(TaskSpec.__struct_fields__[1:])
            raise CompilerError(
                f"--task: {pair!r} is no setting", subject=text, hint=f"NAME:key=value,…; keys: {known}"
            )
        settings[key] = FLAGS.get(value, _number(value))
    try:
        spec = from_document({"name": name, **settings}, TaskSpec, subject="--task")
        tasks.of(spec, (), ())
    except ProtocolError as error:
        hint = error.hint or "NAME:key=value,…, such as regression:tolerance=0.5"
        raise CompilerError(str(error), subject=text, hint=hint) from error
    return spec


def task_of(request: CompileRequest) -> TaskSpec | None:
    """The task that was asked for, else that of the model; None for a classification, or what nobody scores.

    Raises:
        InterfaceError: another one was asked for than the model has.
    """
    current = request.interface.named_task if request.interface is not None else None
    if request.task is not None and current is not None and request.task != current:
        raise InterfaceError(
            f"the model's task is {current.name}; {request.task.name} was asked for, or other settings of it",
            hint="a changed interface is a new model name: fleet model create NAME",
        )
    found = request.task or current
    return None if found is None or found == TaskSpec(name=CLASSIFICATION) else found


def metric_of(request: CompileRequest) -> Metric:
    """The metric of a request, see `metric_for_task`."""
    labels = request.labels or (request.interface.labels if request.interface is not None else ())
    return metric_for_task(task_of(request), request.metric, labels, request.validation.labels)


def metric_for_task(spec: TaskSpec | None, asked: Metric | None, labels: Sequence[str], y: Array) -> Metric:
    """The metric that was asked for, else what fits the task; it compares variants as the task does.

    Args:
        spec: None for a classification, or what nobody scores.
        labels: the class names.
        y: the labels that it is measured against.

    Raises:
        DataError: the task has no metric of its own.
    """
    if spec is None:
        return asked or metrics.default(y)
    every = replace_spec(spec, threshold=LOWEST) if spec.name == "detection" else spec
    metric = metric_for(spec, asked, lambda outputs: read(every, labels, outputs)[1], y)
    return (
        metric
        if not _compares(spec)
        else replace(metric, alike=lambda mine, theirs: _alike(spec, labels, mine, theirs))
    )


def named(manifest: Manifest, spec: TaskSpec | None) -> Manifest:
    """The manifest with its task and what that requires of agents; raises CompilerError where they do not fit."""
    from msgspec.structs import replace as changed

    if spec is None:
        return manifest
    requires = (*manifest.requires, *tasks.required_by(spec))
    found = changed(manifest, task=spec, requires=requires)
    try:
        tasks.check_task(found)
    except ProtocolError as error:
        raise CompilerError(str(error), subject=error.subject, hint=error.hint) from error
    return found


def least_agreement(spec: TaskSpec | None) -> float:
    """The share of self-test vectors whose answers must agree on a device, by the task; 0 where it compares nothing.

    Not all of them: a score beside the threshold, or a box of another rank, may turn by another processor's rounding.
    """
    return LEAST_AGREEMENT if spec is not None and _compares(spec) else 0.0


def groups_of(spec: TaskSpec | None, labels: Sequence[str], outputs: Outputs, *, classes: bool) -> Array:
    """Group answers (n, …) by a number per row, so that a few rows can stand for all of them.

    Args:
        spec: the task; None for a classification, or what nobody scores.
        labels: the class names.
        outputs: of one variant.
        classes: whether the first output ranks classes.
    """
    if spec is None:
        return metrics.predicted(metrics.first(outputs)) if classes else np.zeros(len(metrics.first(outputs)), int)
    task, answers = read(spec, labels, outputs)
    kinds = [repr(task.classes(answer)) for answer in answers]
    values = [task.values(answer)[:1] for answer in answers]
    if all(values) and len(values) == len(kinds):
        numbers = np.nan_to_num(np.array(values, np.float64)[:, 0])
        edges = np.quantile(numbers, np.linspace(0, 1, GROUPS + 1)[1:-1])
        kinds = [str(group) for group in np.digitize(numbers, edges)]
    rows = len(metrics.first(outputs))
    found: Array = np.unique(kinds, return_inverse=True)[1] if len(kinds) == rows else np.zeros(rows, int)
    return found


def _alike(spec: TaskSpec, labels: Sequence[str], mine: Outputs, theirs: Outputs) -> float:
    (task, ours), (_, others) = read(spec, labels, mine), read(spec, labels, theirs)
    return float(np.mean([task.agreement(one, other) for one, other in zip(ours, others, strict=True)]))


def reading(spec: TaskSpec, labels: Sequence[str], outputs: Outputs) -> tuple[tasks.Task[Any], tasks.Reading]:
    """Read outputs as the task's answers with their confidence, as on the device but for a classification's
    temperature.

    Args:
        spec: the task.
        labels: the class names.
        outputs: (n, …) by name.

    Returns:
        The task, and its reading of the outputs.

    Raises:
        CompilerError: task and outputs do not fit each other.
    """
    tensors = [Tensor(name=n, datatype=datatype_of(a), shape=(-1, *a.shape[1:])) for n, a in outputs.items()]
    try:
        task = tasks.of(spec, labels, tensors)
        task.check()
        return task, task.read(outputs, tasks.Calibration())
    except ProtocolError as error:
        hint = error.hint or "name another --task, or let the first output hold its answers"
        raise CompilerError(str(error), subject=error.subject, hint=hint) from error


def read(spec: TaskSpec, labels: Sequence[str], outputs: Outputs) -> tuple[tasks.Task[Any], tuple[Any, ...]]:
    """Return the task and its answers in outputs (n, …), see `reading`."""
    task, found = reading(spec, labels, outputs)
    return task, found.answers


def _compares(spec: TaskSpec) -> bool:
    return spec.name != CLASSIFICATION and tasks.of(spec, (), ()).compares


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
