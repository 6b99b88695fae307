"""Before a run spends its time: a dry run of the recipe on a handful of rows, against the model's interface.

What a release would be refused for at publish is refused here in seconds, in the same words: names, datatypes and
shapes of inputs and outputs of student and teacher, task, class names, and an encoder that could not watch the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cloud_hub.errors import ConflictError, InvalidError
from cloud_hub.samples.dataset import Dataset, stack
from cloud_hub.training.data_checks import check_data
from cloud_hub.training.examples import Examples, Sets, labels_like
from cloud_hub.training.recipe import Recipe
from cloud_hub.training.trying import Tried, request_of, try_model
from cloud_hub.training.trying import handful as handful
from fleet import tasks
from fleet.protocol.drift_encoder import GAPS, Encoder
from fleet.protocol.errors import ProtocolError
from fleet.protocol.interface import Interface
from fleet.protocol.manifest import Tensor
from fleet.protocol.task import CLASSIFICATION, TaskSpec, task_in_words
from fleet.protocol.tensors import datatype_of
from model_compiler import metrics
from model_compiler.build.adapting import Adapted, adapt
from model_compiler.errors import CompilerError, InterfaceError
from model_compiler.evaluate import tasking
from model_compiler.inputs.dataset import UNNAMED, Array, make_dataset
from model_compiler.inputs.preprocessing import NO_STEPS, Preparation, imputed
from model_compiler.inputs.request import non_finite_of
from model_compiler.metrics import Metric
from model_compiler.package import drift_reference

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

SAME_MODEL = "a changed interface is a new model name: fleet model create NAME"


@dataclass(frozen=True)
class Contract:
    """The contract with an existing model's applications; `encoder` watches its drift. `words` name the release that
    fixed it, as in "model 'digits' has an interface, fixed by release 3"."""

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
    """The recipe's sets with the release's names of inputs, in the release's order; `outputs` are those of outputs.

    `names` maps the data's names of inputs to the release's. `spec` names the task, None for a classification; `task`
    is it, with the model's outputs and class names. `findings` are what is worth knowing of the data. `loose` names
    inputs and outputs that may hold NaN and infinity. `preparation` holds front and preprocessing steps as the recipe
    declares them, `ready` the dtypes of what the networks take, by name and in their order.
    """

    sets: Sets
    names: Mapping[str, str]
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    spec: TaskSpec | None
    task: tasks.Task[Any]
    metric: Metric
    findings: tuple[str, ...] = ()
    loose: frozenset[str] = frozenset()
    preparation: Preparation = NO_STEPS
    ready: Mapping[str, Any] = field(default_factory=dict)


def settle_contract(recipe: Recipe, sets: Sets, contract: Contract | None, out: Path) -> Settled:
    """Make the recipe's model once, of a handful of rows where it fits it itself, run it, and settle all names.

    Args:
        sets: the recipe's own data.
        contract: of the model that the run is for; None for one without a release.
        out: the run's directory; nothing is written but what `fit` writes into its folder `dry`.

    Raises:
        ConflictError: the release would not keep the interface; both sides are in the message.
        InvalidError: data, networks and task do not fit each other.
    """
    _check_alike(sets)
    if contract is not None and contract.encoder is not None:
        _check_enough(sets, contract.encoder)
    try:
        spec = task_of(recipe, contract)
        loose = _loose(recipe, contract)
        findings = check_data(sets, spec, _known_labels(recipe, contract), non_finite=loose)
        tried = try_model(recipe, sets, request_of(recipe, sets, spec, loose, out, *_kept(contract)))
        _check_loose(recipe, tried)
        labels = _labels(recipe, tried.outputs, contract, spec)
        task = _task(spec, labels, tried.outputs)
        metric = _metric(recipe, sets, labels, spec)
    except (CompilerError, ProtocolError) as error:
        if contract is not None and isinstance(error, InterfaceError):
            raise contract_refusal(contract, str(error)) from error
        raise InvalidError(f"the recipe: {error}", subject="recipe", hint=error.hint) from error
    called = sets.each(lambda part: part.renamed(tried.names).cast(tried.dtypes))
    return Settled(
        called,
        tried.names,
        tuple(tried.outputs),
        labels,
        spec,
        task,
        metric,
        findings,
        loose,
        tried.preparation,
        tried.ready,
    )


def task_of(recipe: Recipe, contract: Contract | None) -> TaskSpec | None:
    """The task of the model, else of the recipe; None for a classification.

    Raises InterfaceError when the recipe's is another than the model's.
    """
    asked = tasking.parse(recipe.task) if recipe.task else None
    fixed = contract.interface.named_task if contract is not None else None
    if asked is not None and fixed is not None and asked != fixed:
        raise InterfaceError(f"its task is {task_in_words(fixed)}; the recipe's is {task_in_words(asked)}")
    found = fixed or asked
    return None if found is None or found == TaskSpec(name=CLASSIFICATION) else found


def _kept(contract: Contract | None) -> tuple[Interface | None, Encoder | None]:
    return (contract.interface, contract.encoder) if contract is not None else (None, None)


def _loose(recipe: Recipe, contract: Contract | None) -> frozenset[str]:
    """Inputs and outputs that may hold NaN and infinity, by the model's interface, or by the recipe of a new model.

    Raises InterfaceError when the recipe's may do so where the model's may not.
    """
    own = frozenset(recipe.non_finite) | imputed(recipe.preprocess)
    if contract is None:
        return own
    more = sorted(own - contract.non_finite)
    if more:
        raise InterfaceError(f"{more[0]!r} holds no NaN and no infinity; by the recipe it may")
    return contract.non_finite


def _check_loose(recipe: Recipe, tried: Tried) -> None:
    known = (*tried.names.values(), *tried.outputs)
    unknown = [name for name in recipe.non_finite if name not in known]
    if unknown:
        raise InvalidError(
            f"the recipe: there is no input or output {unknown[0]!r} that may be non-finite; there are "
            f"{', '.join(known)}",
            subject="recipe",
        )


def contract_refusal(contract: Contract, why: str) -> ConflictError:
    """The refusal of a release that would change what applications rely on, as publishing says it."""
    return ConflictError(f"{contract.words}: {why}", subject=contract.model, hint=SAME_MODEL)


def placed(network: nn.Module, data: Examples, outputs: Sequence[str]) -> Adapted:
    """A network that takes the inputs of `data` by place and answers with `outputs` in that order.

    The recipe's own, where it does so by itself; else a thin one around it that shares its weights.

    Raises InvalidError when it cannot.
    """
    row = data.take(slice(1))
    loose = tuple(row.inputs)  # only its shapes and datatypes count
    rows = make_dataset(row.inputs, row.y, "the training set", non_finite=loose, precise=True)
    try:
        return adapt(network.eval(), rows, inputs=tuple(data.inputs), outputs=tuple(outputs))
    except CompilerError as error:
        raise InvalidError(f"the recipe: {error}", subject="recipe", hint=error.hint) from error


def samples_of(snapshot: Dataset, like: Examples, task: tasks.Task[Any]) -> Examples:
    """A snapshot's samples as more rows of the recipe's data: same names, shapes and dtypes, labels likewise.

    Raises InvalidError with both sides when they are of other inputs, or when a label is none of the task.
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
    found = stack(snapshot, task)
    known = np.zeros(len(snapshot.ids), bool)
    known[found.rows] = True
    y = labels_like(found.y, found.rows, len(known), like.y)
    return Examples(ordered if isinstance(like.x, Mapping) else ordered[UNNAMED], y, known)


def _task(spec: TaskSpec | None, labels: Sequence[str], outputs: Mapping[str, Array]) -> tasks.Task[Any]:
    tensors = [Tensor(name=n, datatype=datatype_of(a), shape=(-1, *a.shape[1:])) for n, a in outputs.items()]
    if spec is None and not labels:
        labels = tuple(str(number) for number in range(tensors[0].shape[-1]))
    task = tasks.of(spec or TaskSpec(name=CLASSIFICATION), labels, tensors)
    task.check()
    return task


def _metric(recipe: Recipe, sets: Sets, labels: Sequence[str], spec: TaskSpec | None) -> Metric:
    y = sets.validation.with_labels().y
    if spec is None and (y.ndim != 1 or y.dtype.kind not in "iu"):
        raise InvalidError(
            f"the recipe: a classification's labels are integers (n,), they are {y.dtype} {list(y.shape)}",
            subject="recipe",
            hint="name another task: Recipe(task='regression:tolerance=…'); the tasks are " + ", ".join(tasks.NAMES),
        )
    return tasking.metric_for_task(spec, metrics.parse(recipe.metric) if recipe.metric else None, labels, y)


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


def _check_enough(sets: Sets, encoder: Encoder) -> None:
    for name, part in (("calibration", sets.calibration), ("validation", sets.validation)):
        array = part.inputs.get(encoder.tensor, next(iter(part.inputs.values())))
        if not drift_reference.possible(array, array, gaps=encoder.schema == GAPS):
            raise InvalidError(
                f"the recipe: the {name} set has {len(part)} rows; the model's drift is watched, which needs at least "
                f"{drift_reference.LEAST_ROWS} that differ",
                subject="recipe",
                hint="give it more rows",
            )


def _labels(
    recipe: Recipe, outputs: Mapping[str, Array], contract: Contract | None, spec: TaskSpec | None
) -> tuple[str, ...]:
    labels = _known_labels(recipe, contract)
    scores = next(iter(outputs.values()))
    if spec is None and labels and (scores.ndim != 2 or scores.shape[1] != len(labels)):
        raise InterfaceError(
            f"there are {len(labels)} class names ({', '.join(labels)}); the student answers {list(scores.shape)}"
        )
    return labels


def _known_labels(recipe: Recipe, contract: Contract | None) -> tuple[str, ...]:
    return recipe.labels or (contract.interface.labels if contract is not None else ())


def _words(inputs: Mapping[str, Array]) -> str:
    return ", ".join(
        f"{name} {array.dtype} {['n', *array.shape[1:]]}".replace("'", "") for name, array in inputs.items()
    )
