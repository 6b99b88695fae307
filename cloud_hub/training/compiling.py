"""From trained networks to a release directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from cloud_hub.errors import InvalidError
from cloud_hub.training.checking import Settled, contract_refusal
from cloud_hub.training.dealing import Parts
from cloud_hub.training.examples import Examples
from cloud_hub.training.handed import RELEASE, Released
from cloud_hub.training.models import Made
from cloud_hub.training.run import lineage_of, onnx_of_made
from cloud_hub.training.run_request import RunRequest
from fleet.protocol.manifest import Gate
from model_compiler import metrics
from model_compiler.errors import CompilerError
from model_compiler.metrics import Metric

if TYPE_CHECKING:
    from model_compiler.inputs.dataset import Dataset
    from model_compiler.inputs.request import CompileRequest


@dataclass(frozen=True)
class Trained:
    """The results of a training run: its networks, the data that they had, and the names, task and metric of both."""

    student: Made
    teacher: Made | None
    parts: Parts
    settled: Settled


def compile_run(
    request: RunRequest,
    trained: Trained,
    *,
    current: Released | None,
    on_grid: bool,
    progress: Callable[[str], None],
) -> None:
    """Compile into `request.out / RELEASE`, with the gate of the current release and the request's contract.

    Args:
        request: what was trained.
        trained: what came of it.
        current: the release that devices come from.
        on_grid: whether its quantization grid is kept whatever that costs.
        progress: hears of each of the compiler's steps.

    Raises:
        ConflictError: the release would not keep the model's interface.
        InvalidError: the compiler refuses it, with its reason.
    """
    from model_compiler.errors import InterfaceError
    from model_compiler.pipeline import compile_release

    shutil.rmtree(request.out / RELEASE, ignore_errors=True)
    try:
        asked = _asked(request, trained, current)
        compile_release(replace(asked, on_grid=on_grid, progress=progress))
    except CompilerError as error:
        if request.contract is not None and isinstance(error, InterfaceError):
            raise contract_refusal(request.contract, str(error)) from error
        raise InvalidError(f"the compiler refuses it: {error}", subject="compile", hint=error.hint) from error


def _asked(request: RunRequest, trained: Trained, current: Released | None) -> CompileRequest:
    """Return the request to the compiler.

    Raises:
        DataError: no model takes such data.
    """
    from model_compiler.inputs.deferral_target import DeferTarget, target_in
    from model_compiler.inputs.request import CompileRequest

    parts, settled, student = trained.parts, trained.settled, trained.student
    contract, loose, lineage = request.contract, settled.loose, lineage_of(request)
    recipe, former = request.loaded.recipe, current.former if current is not None else None
    if current is not None:
        lineage = msgspec.structs.replace(lineage, parents=(f"release {current.number}",))
    validation, train = parts.validation.with_labels(), parts.train.with_labels()

    return CompileRequest(
        calibration=_data(parts.calibration, "calibration", loose),
        validation=_data(validation, "validation", loose),
        non_finite=tuple(sorted(loose)),
        targets=recipe.targets,
        out=request.out / RELEASE,
        module=student.module,
        onnx=student.onnx,
        cloud=onnx_of_made(trained.teacher, parts.train) if trained.teacher is not None else None,
        labels=settled.labels,
        features=recipe.features,
        inputs=tuple(parts.train.inputs),
        outputs=settled.outputs,
        preprocess=parts.steps.preparation.steps,
        front=parts.steps.preparation.front,
        task=settled.spec,
        metric=_metric(recipe.metric, current),
        defer=(target_in(former.target) if former is not None else None) or DeferTarget(),
        interface=contract.interface if contract is not None else None,
        encoder=contract.encoder if contract is not None else None,
        gate=current.manifest.gate if current is not None else Gate(),
        search=True,
        tuning=_data(train, "training", loose) if len(train) else None,
        lineage=lineage,
        former=former,
        seed=request.seed,
    )


def _data(part: Examples, name: str, loose: Collection[str]) -> Dataset:
    from model_compiler.inputs.dataset import make_dataset

    return make_dataset(part.inputs, part.y, name, non_finite=loose, precise=True)


def _metric(asked: str, current: Released | None) -> Metric | None:
    """The recipe's metric, else that of the release before, whose gate is kept; None for the task's.

    That of a file of one's own is not to be had from its name: the recipe says it, or its terms are held against the
    task's.
    """
    if asked:
        return metrics.parse(asked)
    if current is None:
        return None
    try:
        return metrics.parse(current.former.metric)
    except CompilerError:
        return None
