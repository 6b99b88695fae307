"""A recipe's model, made once of a handful of rows and asked: what its names, dtypes and answers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cloud_hub.training.examples import Examples, Sets
from cloud_hub.training.models import source_of
from cloud_hub.training.recipe import Fitting, Recipe
from cloud_hub.training.steps import fitted
from fleet.protocol.drift_encoder import Encoder
from fleet.protocol.interface import Interface
from fleet.protocol.task import TaskSpec
from model_compiler import metrics
from model_compiler.build import fronts
from model_compiler.build.adapting import adapt
from model_compiler.build.prepared import adapt_module, prepare
from model_compiler.build.preprocessed import asked_of, behind, check_kinds, raw_names, single
from model_compiler.errors import InterfaceError
from model_compiler.evaluate import tasking
from model_compiler.inputs import naming
from model_compiler.inputs.dataset import Array, make_dataset
from model_compiler.inputs.dataset import Dataset as CompilerDataset
from model_compiler.inputs.preprocessing import NO_STEPS, FrontFile, Preparation
from model_compiler.inputs.request import CompileRequest
from model_compiler.running import runner

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

ROWS = 2
HANDFUL, OF_EACH, MOST_CLASSES = 64, 4, 100  # rows that a recipe's own fit is tried on, and of each class


@dataclass(frozen=True)
class Tried:
    """The findings from a handful of rows: names of inputs (data's to release's), their dtypes, the dtypes that the
    networks take, the answers, and the preparation before the networks, with steps as the recipe declares them."""

    names: Mapping[str, str]
    dtypes: Mapping[str, Any]
    ready: Mapping[str, Any]
    outputs: Mapping[str, Array]
    preparation: Preparation = NO_STEPS


def handful(data: Examples) -> Examples:
    """A few rows of `data`, some of each class where there are classes."""
    rows = np.arange(min(HANDFUL, len(data)))
    if data.y.ndim == 1 and data.y.dtype.kind in "iu":
        order = np.argsort(data.y, kind="stable")
        starts = np.unique(data.y[order], return_index=True)[1]
        each = np.concatenate([order[start : start + OF_EACH] for start in starts[:MOST_CLASSES]])
        rows = np.union1d(rows, each)
    return data.take(rows)


def request_of(
    recipe: Recipe,
    sets: Sets,
    spec: TaskSpec | None,
    loose: frozenset[str],
    out: Path,
    interface: Interface | None,
    encoder: Encoder | None,
) -> CompileRequest:
    """Return the coming request to the compiler, with a few rows, and without a model.

    Raises:
        InterfaceError: the steps are of other kinds than the model has.
    """
    few = sets.train.take(slice(ROWS))
    rows = make_dataset(few.inputs, few.y, "the training set", non_finite=loose, precise=True)
    request = CompileRequest(
        calibration=rows,
        validation=rows,
        targets=(),
        out=out,
        non_finite=tuple(sorted(loose)),
        inputs=recipe.inputs,
        outputs=recipe.outputs,
        labels=recipe.labels,
        task=spec,
        metric=metrics.parse(recipe.metric) if recipe.metric else None,
        interface=interface,
        encoder=encoder,
        preprocess=recipe.preprocess,
        front=_front_of(recipe, rows),
    )
    check_kinds(request)
    return request


def _front_of(recipe: Recipe, rows: CompilerDataset) -> FrontFile | None:
    """The recipe's front; a function makes the same one in every run, on every resume and in all of torchrun's
    processes, whatever it draws from torch."""
    if isinstance(recipe.front, str):
        return fronts.read(recipe.front) if recipe.front else None
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fronts.of_module(recipe.front(), rows)


def try_model(recipe: Recipe, sets: Sets, request: CompileRequest) -> Tried:
    """Make the recipe's model, of a handful of rows where it fits it itself, and ask it.

    Raises:
        CompilerError: data, steps and networks do not fit each other, or the model's interface.
        InvalidError: what `fit` returned is no model, or the rows are not what a step takes.
    """
    if not request.prepares:
        return _tried_network(recipe, sets.train, request)
    request = single(request)
    names = raw_names(request)
    dtypes = {name: array.dtype for name, array in request.validation.renamed(names).inputs.items()}
    train = sets.train.renamed(names).cast(dtypes)
    front, rows = request.front, CompilerDataset(dict(train.inputs))
    if front is not None:
        front = fronts.tried(fronts.called(front, tuple(train.inputs)), rows)
    declared = Preparation(steps=recipe.preprocess, loose=tuple(sorted(request.loose())), front=front)
    asked = asked_of(replace(request, preprocess=fitted(declared, train.inputs)))
    few = handful(train)
    ready = fronts.ready(asked.preparation, CompilerDataset(dict(few.inputs))).inputs
    tried = _tried_network(recipe, Examples(ready, few.y, few.known), behind(request, asked))
    return replace(tried, names=names, dtypes=dtypes, preparation=declared)


def _tried_network(recipe: Recipe, train: Examples, request: CompileRequest) -> Tried:
    """The recipe's model on what it takes: `train` and the request are behind the steps."""
    source: nn.Module | bytes
    if recipe.student is not None:
        source = recipe.student().eval()
    else:
        assert recipe.fit is not None  # a recipe has one of the two
        few, folder = handful(train), request.out / "dry"
        folder.mkdir(parents=True, exist_ok=True)
        source = source_of(recipe.fit(Fitting(few, 0, folder)), few.inputs)
    if isinstance(source, bytes):
        tried = _tried_onnx(replace(request, onnx=source))
    else:
        request = replace(request, module=source.eval())
        student = adapt_module(request, tasking.metric_of(request))
        dtypes = {name: array.dtype for name, array in student.data.inputs.items()}
        tried = Tried(student.names, dtypes, dtypes, student.outputs)
    if recipe.teacher is not None:
        rows = {name: request.validation.inputs[old][:1] for old, name in tried.names.items()}
        _check_teacher(recipe.teacher().eval(), CompilerDataset(rows).cast(tried.ready), tried.outputs)
    return tried


def _tried_onnx(request: CompileRequest) -> Tried:
    prepared = prepare(request, tasking.metric_of(request))
    assert prepared.onnx is not None  # the request's source
    data = prepared.validation
    found = runner.run("the recipe's model", "onnx", prepared.onnx, data, finite=False)
    outputs = dict(zip(prepared.outputs, found.outputs, strict=True))
    if request.interface is not None:
        naming.check_early(request.interface, data.inputs, outputs, request.labels)
    dtypes = {name: array.dtype for name, array in data.inputs.items()}
    return Tried(prepared.names, dtypes, dtypes, outputs)


def _check_teacher(teacher: nn.Module, rows: CompilerDataset, outputs: Mapping[str, Array]) -> None:
    """The cloud variant answers what the edge variants answer, by the same names."""
    theirs = adapt(teacher, rows, inputs=tuple(rows.inputs), outputs=tuple(outputs)).outputs
    for name, answer in outputs.items():
        if theirs[name].shape[1:] != answer.shape[1:]:
            raise InterfaceError(
                f"output {name!r} of the student has shape {[1, *answer.shape[1:]]}, "
                f"the teacher's {list(theirs[name].shape)}",
                hint="make both answer alike",
            )
