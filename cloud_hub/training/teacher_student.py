"""A run's two networks: the teacher, and the student that learns from it, fitted by the kit or by the recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cloud_hub.errors import InvalidError
from cloud_hub.training.checking import Settled, placed
from cloud_hub.training.dealing import Parts
from cloud_hub.training.models import Made, source_of, weights_in_file
from cloud_hub.training.recipe import Examples, Fitting
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.steps import FittedSteps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cloud_hub.training.fitting import FitSettings
    from model_compiler.build.adapting import Adapted


def train_teacher(request: RunRequest, parts: Parts, settled: Settled) -> Made | None:
    """Train the recipe's teacher, where it has one; goes on from its checkpoint in `out` when there is one."""
    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    if recipe.teacher is None:
        return None
    warm = recipe.warm is True
    step = "training the teacher"
    plan = _Plan("teacher", step, request.seed, hyper.teacher_epochs, hyper.teacher_rate, warm)
    return _fitted(request, settled, recipe.teacher, parts.train, parts.steps, plan, None)


def train_student(
    request: RunRequest, parts: Parts, settled: Settled, teacher: Made | None, share: float | None = None
) -> Made:
    """Train the recipe's student, from the teacher's answers, too, where there is a teacher; or let it fit its own.

    `share` of its weights may change where it starts from those of the release before; None: as the recipe says. Where
    it is given, and is not all of them, a fine-tune of all goes ahead, once for all shares, to find those that matter.
    """
    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    every = parts.train.join(parts.unlabelled)
    if recipe.fit is not None:
        return _own_fit(request, settled, every, parts.steps, teacher)
    assert recipe.student is not None  # a recipe has one of the two
    step = "training the student" if teacher is None else "distilling the student"
    plan = _Plan(
        "student",
        step,
        request.seed + 1,
        hyper.student_epochs,
        hyper.student_rate,
        warm=recipe.warm is not False,
        share=hyper.warm_share if share is None else share,
        warm_epochs=hyper.warm_epochs,
        ahead=share is not None,
    )
    return _fitted(request, settled, recipe.student, every, parts.steps, plan, teacher)


@dataclass(frozen=True)
class _Plan:
    """One network's fit: its name among the run's files, its step in words, and the numbers that are its own.

    `warm`: it starts from the weights of the release before, `share` of them may change, and `warm_epochs`, unless
    None, are its epochs then. `ahead`: a fine-tune of all weights goes ahead, which says which of them matter.
    """

    name: str
    step: str
    seed: int
    epochs: int
    rate: float
    warm: bool
    share: float = 1.0
    warm_epochs: int | None = None
    ahead: bool = False


def _fitted(
    request: RunRequest,
    settled: Settled,
    make: Callable[[], nn.Module],
    raw: Examples,
    steps: FittedSteps,
    plan: _Plan,
    teacher: Made | None,
) -> Made:
    """By the kit's loop. A recipe's own loss gets what `forward` answers, one of the kit's the release's outputs."""
    import torch

    from cloud_hub.training.fitting import fit_network, save_weights
    from cloud_hub.training.parallel import process_share
    from cloud_hub.training.sparing import free_of
    from model_compiler.build.adapting import original

    request.progress(plan.step, 0.0)  # before a warm start looks for the weights that matter
    torch.manual_seed(plan.seed)
    data = steps.ready(raw)
    adapted = placed(make(), data, settled.outputs)
    warm = plan.warm and plan.name in request.start and _started_warm(request, plan, adapted)
    if warm and plan.warm_epochs is not None:
        plan = replace(plan, epochs=plan.warm_epochs)
    settings = _settings(request, settled, plan, warm=warm, taught=teacher is not None)
    network = adapted.raw if callable(request.loaded.recipe.loss) else adapted.module
    from_teacher = teacher.module if teacher is not None else None
    if warm and plan.share < 1:
        worth = _worth(network, data, settings, from_teacher, ahead=plan.ahead)
        settings = replace(settings, free=free_of(worth, plan.share) if worth else None)
    fit_network(network, data, settings, from_teacher)
    if process_share().first:
        save_weights(original(adapted.module), request.out / f"{plan.name}.safetensors")
    return Made(settled.outputs, module=adapted.module.cpu().eval(), steps=steps)


def _settings(request: RunRequest, settled: Settled, plan: _Plan, *, warm: bool, taught: bool) -> FitSettings:
    """The loop's settings of one network's fit; `taught`: a teacher's answers are part of its loss."""
    from cloud_hub.training.fitting import FitSettings
    from cloud_hub.training.losses import Weights, loss_of

    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    weights = Weights(hyper.distill_temperature, hyper.soft_share if taught else 0.0)
    return FitSettings(
        plan.epochs,
        hyper.batch,
        plan.rate,
        hyper.weight_decay,
        plan.seed,
        checkpoint=request.out / "checkpoints" / f"{plan.name}{_mark(plan, warm)}.safetensors",
        augment=recipe.augment,
        tick=lambda share: request.progress(plan.step, share),
        loss=loss_of(settled.spec, recipe.loss, weights),
        hear=partial(_say_loss, plan),
        precision=hyper.precision,
        compiled=hyper.compiled,
    )


def _worth(
    network: nn.Module, data: Examples, settings: FitSettings, teacher: nn.Module | None, *, ahead: bool
) -> dict[str, Tensor]:
    """Compute the worth of each weight (`sparing`); the network stays as it is. `ahead`: by a fine-tune of all of
    them, whose checkpoint every share goes on from."""
    from cloud_hub.training.fitting import fit_network, gradients
    from cloud_hub.training.sparing import worth_moved, worth_of

    found = gradients(network, data, settings, teacher)
    if not ahead or settings.checkpoint is None:
        return worth_of(network, found)
    before = {name: weights.detach().clone() for name, weights in network.named_parameters()}
    path = settings.checkpoint.with_name("student-ahead.safetensors")
    moved = fit_network(deepcopy(network), data, replace(settings, checkpoint=path), teacher)
    return worth_moved(moved, found, before)


def _started_warm(request: RunRequest, plan: _Plan, adapted: Adapted) -> bool:
    """Load the weights of the release before, and say so; false where they do not fit the network."""
    from cloud_hub.training.fitting import load_weights
    from model_compiler.build.adapting import original

    start = request.start[plan.name]
    if not start and plan.name == "student":
        start = weights_in_file(request.released, adapted)
    why = load_weights(original(adapted.module), start)
    print(f"{plan.name}: " + (f"it starts anew: {why}" if why else "warm start"), file=sys.stderr)
    return not why


def _mark(plan: _Plan, warm: bool) -> str:
    """Return the mark that tells a fit's checkpoints from those of another start and share."""
    return f"-{plan.share:.6f}" if warm and plan.share < 1 else ""


def _say_loss(plan: _Plan, epoch: int, loss: float) -> None:
    """Each epoch's loss, ten times or so, for whoever reads the job's log."""
    from cloud_hub.training.parallel import process_share

    if process_share().first and (epoch % max(plan.epochs // 10, 1) == 0 or epoch == plan.epochs):
        print(f"{plan.name}: epoch {epoch} of {plan.epochs}, loss {loss:.4g}", file=sys.stderr)


def _own_fit(request: RunRequest, settled: Settled, raw: Examples, steps: FittedSteps, teacher: Made | None) -> Made:
    """By the recipe's own `fit`."""
    from cloud_hub.training.fitting import save_weights

    recipe = request.loaded.recipe
    assert recipe.fit is not None  # checked by the caller
    request.progress("fitting the student", 0.0)
    folder = request.out / "fit"
    folder.mkdir(parents=True, exist_ok=True)
    soft = None if teacher is None else teacher.answers(raw.inputs)[settled.outputs[0]]
    data = steps.ready(raw)
    own = data if steps.preparation else data.renamed({new: old for old, new in settled.names.items()})
    given = Fitting(own, request.seed, folder, soft, request.start.get("student", {}), request.released)
    source = source_of(recipe.fit(given), own.inputs)
    if isinstance(source, bytes):
        return Made(settled.outputs, onnx=_named(source, data, settled.outputs), steps=steps)
    save_weights(source, request.out / "student.safetensors")
    return Made(settled.outputs, module=placed(source, data, settled.outputs).module, steps=steps)


def _named(onnx: bytes, data: Examples, outputs: Sequence[str]) -> bytes:
    """An ONNX model with the release's names; raises InvalidError when it has others."""
    from model_compiler.errors import CompilerError
    from model_compiler.inputs.sources import named

    try:
        return named(onnx, tuple(data.inputs), tuple(outputs))
    except CompilerError as error:
        raise InvalidError(f"the recipe: {error}", subject="recipe", hint=error.hint) from error
