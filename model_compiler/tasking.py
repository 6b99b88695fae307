"""The task that a release shall name, and what is measured of it by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fleet import tasks
from fleet.protocol.codec import from_document
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.task import CLASSIFICATION, TaskSpec
from fleet.protocol.tensors import datatype_of
from model_compiler import metrics
from model_compiler.data import Array
from model_compiler.errors import CompilerError, DataError, InterfaceError
from model_compiler.metrics import Metric, Outputs
from model_compiler.request import CompileRequest

FLAGS = {"true": True, "false": False}


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
    """The metric that was asked for, else what fits the task; it compares variants as the task does.

    Raises:
        DataError: the task has no metric of its own.
    """
    spec, y = task_of(request), request.validation.labels
    if spec is None:
        return request.metric or metrics.default(y)
    labels = request.labels or (request.interface.labels if request.interface is not None else ())
    metric = request.metric or _default(spec, labels, y)
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


def _default(spec: TaskSpec, labels: Sequence[str], y: Array) -> Metric:
    names = {CLASSIFICATION: "accuracy", "regression": "rmse", "embedding": "rmse", "anomaly-score": "auc"}
    if spec.name in names:
        return metrics.parse(names[spec.name])
    if spec.name != "multi-label":
        raise DataError(f"a {spec.name} needs a metric", hint="--metric file.py:function, or exact, rmse, …")
    if y.ndim != 2 or not np.isin(y, (0, 1)).all():
        raise DataError(
            "the labels of a multi-label are (n, classes) of 0 and 1", hint="write y with a column for every class"
        )

    def score(outputs: Outputs, right: Array) -> float:
        task, answers = _read(spec, labels, outputs)
        wanted = [tuple(np.flatnonzero(row).tolist()) for row in right]
        return float(np.mean([task.agreement(one, other) for one, other in zip(answers, wanted, strict=True)]))

    return Metric("jaccard", score)


def _alike(spec: TaskSpec, labels: Sequence[str], mine: Outputs, theirs: Outputs) -> float:
    (task, ours), (_, others) = _read(spec, labels, mine), _read(spec, labels, theirs)
    return float(np.mean([task.agreement(one, other) for one, other in zip(ours, others, strict=True)]))


def _read(spec: TaskSpec, labels: Sequence[str], outputs: Outputs) -> tuple[tasks.Task[Any], tuple[Any, ...]]:
    """The task and the answers in outputs (n, …); raises CompilerError where they do not fit each other."""
    tensors = [Tensor(name=n, datatype=datatype_of(a), shape=(-1, *a.shape[1:])) for n, a in outputs.items()]
    try:
        task = tasks.of(spec, labels, tensors)
        task.check()
        return task, task.answers(outputs)
    except ProtocolError as error:
        hint = error.hint or "name another --task, or let the first output hold its answers"
        raise CompilerError(str(error), subject=error.subject, hint=hint) from error


def _compares(spec: TaskSpec) -> bool:
    return spec.name != CLASSIFICATION and tasks.of(spec, (), ()).compares


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
