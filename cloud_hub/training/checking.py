"""Before a run spends its time: a dry run of the recipe's networks on two rows, against the model's interface.

What a release would be refused for at publish is refused here in seconds, in the same words: names, datatypes and
shapes of inputs and outputs of student and teacher, class names, and an encoder that could not watch the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cloud_hub.errors import ConflictError, InvalidError
from cloud_hub.samples.dataset import Dataset
from cloud_hub.training.recipe import Examples, Recipe, Sets
from fleet.protocol.interface import Interface
from fleet.protocol.sketch import Encoder
from fleet.protocol.task import CLASSIFICATION
from model_compiler import reference
from model_compiler.adapting import Adapted, adapt
from model_compiler.building import adapt_module
from model_compiler.data import UNNAMED, Array, make_dataset
from model_compiler.data import Dataset as CompilerDataset
from model_compiler.errors import CompilerError, InterfaceError
from model_compiler.metrics import default
from model_compiler.request import CompileRequest, non_finite_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

ROWS = 2
SAME_MODEL = "a changed interface is a new model name: fleet model create NAME"


@dataclass(frozen=True)
class Contract:
    """What an existing model's applications rely on; `encoder` watches its drift. `words` say who fixed it, as in
    "model 'digits' has an interface, fixed by release 3"."""

    model: str
    words: str
    interface: Interface
    encoder: Encoder | None = None

    @property
    def non_finite(self) -> frozenset[str]:
        """Inputs and outputs that may hold NaN and infinity."""
        return non_finite_of(self.interface)


@dataclass(frozen=True)
class Settled:
    """The recipe's sets with the release's names of inputs, in the release's order; `outputs` are those of outputs."""

    sets: Sets
    outputs: tuple[str, ...]
    labels: tuple[str, ...]


def settle(recipe: Recipe, sets: Sets, contract: Contract | None, out: Path) -> Settled:
    """Build the recipe's student and teacher once, run them on two rows, and settle all names.

    Args:
        sets: the recipe's own data.
        contract: of the model that the run is for; None for one without a release.
        out: the run's directory; nothing is written.

    Raises:
        ConflictError: the release would not keep the interface; both sides are in the message.
        InvalidError: data and networks do not fit each other, or the model is no classification.
    """
    if contract is not None:
        _check_task(contract)
    _check_alike(sets)
    if contract is not None and contract.encoder is not None:
        _check_enough(sets)
    loose = contract.non_finite if contract is not None else frozenset[str]()
    rows = make_dataset(sets.train.take(slice(ROWS)).inputs, sets.train.y[:ROWS], "the training set", non_finite=loose)
    request = CompileRequest(
        calibration=rows, validation=rows, targets=(), out=out, module=recipe.student().eval(),
        inputs=recipe.inputs, outputs=recipe.outputs, labels=recipe.labels,
        interface=contract.interface if contract is not None else None,
        encoder=contract.encoder if contract is not None else None,
    )  # fmt: skip
    try:
        student = adapt_module(request, default(rows.labels))
        _check_teacher(recipe.teacher().eval(), student)
        labels = _labels(recipe, student, contract)
    except CompilerError as error:
        if contract is not None and isinstance(error, InterfaceError):
            raise refused(contract, str(error)) from error
        raise InvalidError(f"the recipe: {error}", subject="recipe", hint=error.hint) from error
    dtypes = {name: array.dtype for name, array in student.data.inputs.items()}
    called = sets.each(lambda part: part.renamed(student.names).cast(dtypes))
    return Settled(called, tuple(student.outputs), labels)


def _check_task(contract: Contract) -> None:
    """Recipes learn classes, by cross-entropy: a model of another task would come back as something else."""
    task = contract.interface.named_task
    if task is not None and task.name != CLASSIFICATION:
        raise InvalidError(
            f"model {contract.model!r} is a {task.name}; recipes train classifications only",
            subject="recipe",
            hint="train it elsewhere: model-compiler compile --like RELEASE_DIR keeps the interface, then publish",
        )


def refused(contract: Contract, why: str) -> ConflictError:
    """The refusal of a release that would change what applications rely on, as publishing says it."""
    return ConflictError(f"{contract.words}: {why}", subject=contract.model, hint=SAME_MODEL)


def placed(network: nn.Module, data: Examples, outputs: Sequence[str]) -> nn.Module:
    """A network that takes the inputs of `data` by place and answers with `outputs` in that order.

    The recipe's own, where it does so by itself; else a thin one around it that shares its weights.

    Raises InvalidError when it cannot.
    """
    row = data.take(slice(1))
    rows = make_dataset(row.inputs, row.y, "the training set", non_finite=tuple(row.inputs))  # only its shapes count
    try:
        found = adapt(network.eval(), rows, inputs=tuple(data.inputs), outputs=tuple(outputs))
    except CompilerError as error:
        raise InvalidError(f"the recipe: {error}", subject="recipe", hint=error.hint) from error
    return found.module


def samples_of(snapshot: Dataset, like: Examples) -> Examples:
    """A snapshot's samples as more rows of the recipe's data: same names, shapes and dtypes.

    Raises InvalidError with both sides when they are of other inputs.
    """
    inputs, own = dict(snapshot.inputs), like.inputs
    if len(inputs) == len(own) == 1 and UNNAMED in (*inputs, *own):
        inputs = dict(zip(own, inputs.values(), strict=True))
    fits = set(inputs) == set(own) and all(inputs[n].shape[1:] == own[n].shape[1:] for n in own)
    if not fits:
        raise InvalidError(
            f"the snapshot has the inputs {_words(snapshot.inputs)}; the recipe's data has {_words(own)}",
            subject="snapshot",
            hint="use a snapshot of this model, made of a release with its interface",
        )
    ordered = {name: inputs[name].astype(array.dtype) for name, array in own.items()}
    return Examples(ordered if isinstance(like.x, Mapping) else ordered[UNNAMED], snapshot.label)


def _check_alike(sets: Sets) -> None:
    first = sets.train.inputs
    for name in ("calibration", "validation", "exam"):
        part: Examples = getattr(sets, name)
        same = {n: (a.shape[1:], a.dtype) for n, a in part.inputs.items()} == {
            n: (a.shape[1:], a.dtype) for n, a in first.items()
        }
        if not same:
            raise InvalidError(
                f"the recipe: the training set has the inputs {_words(first)}, the {name} set {_words(part.inputs)}",
                subject="recipe",
                hint="give every set the same inputs",
            )


def _check_enough(sets: Sets) -> None:
    for name, part in (("calibration", sets.calibration), ("validation", sets.validation)):
        if not reference.possible(next(iter(part.inputs.values())), next(iter(part.inputs.values()))):
            raise InvalidError(
                f"the recipe: the {name} set has {len(part)} rows; the model's drift is watched, which needs at least "
                f"{reference.LEAST_ROWS} that differ",
                subject="recipe",
                hint="give it more rows",
            )


def _check_teacher(teacher: nn.Module, student: Adapted) -> None:
    """The cloud variant answers what the edge variants answer, by the same names."""
    rows = CompilerDataset(student.data.inputs, np.zeros(1, np.int64))
    theirs = adapt(teacher, rows, inputs=tuple(student.data.inputs), outputs=tuple(student.outputs)).outputs
    for name, answer in student.outputs.items():
        if theirs[name].shape != answer.shape:
            raise InterfaceError(
                f"output {name!r} of the student has shape {list(answer.shape)}, "
                f"the teacher's {list(theirs[name].shape)}",
                hint="make both answer alike",
            )


def _labels(recipe: Recipe, student: Adapted, contract: Contract | None) -> tuple[str, ...]:
    labels = recipe.labels or (contract.interface.labels if contract is not None else ())
    scores = next(iter(student.outputs.values()))
    if labels and (scores.ndim != 2 or scores.shape[1] != len(labels)):
        raise InterfaceError(
            f"there are {len(labels)} class names ({', '.join(labels)}); the student answers {list(scores.shape)}"
        )
    return labels


def _words(inputs: Mapping[str, Array]) -> str:
    return ", ".join(
        f"{name} {array.dtype} {['n', *array.shape[1:]]}".replace("'", "") for name, array in inputs.items()
    )
