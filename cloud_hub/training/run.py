"""One training run: teacher, then student, then the files that the compiler takes from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cloud_hub.errors import InvalidError
from cloud_hub.samples.dataset import Dataset
from cloud_hub.training import alike
from cloud_hub.training.checking import Contract, Settled, placed, samples_of, settle
from cloud_hub.training.data_checks import keys_of
from cloud_hub.training.models import Made, source_of, weights_in_file
from cloud_hub.training.recipe import Examples, Fitting, LoadedRecipe, Sets, swap_labels
from cloud_hub.training.steps import NO_FITTED_STEPS, FittedSteps, fitted, with_vocabularies
from fleet.protocol.manifest import Lineage
from model_compiler.build import fronts
from model_compiler.inputs.dataset import Array, make_dataset, save_dataset
from model_compiler.inputs.preprocessing import Preparation

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str, float], None]
GATE_SHARE, CALIBRATION_SHARE = 0.25, 0.1  # of a snapshot's human labels, kept out of training


@dataclass(frozen=True)
class RunRequest:
    """What to train. `progress(step, fraction)` may raise to stop the run.

    `contract` is what the applications of an existing model rely on: its names and classes outrank the recipe's.
    `start` holds the weights of the release before by network and name (of a network that they are not to be had of,
    none), `released` the most precise model file that devices have of it; empty without such a release.
    """

    loaded: LoadedRecipe
    out: Path
    seed: int = 0
    snapshot: Dataset | None = None
    swap: tuple[int, int] | None = None
    contract: Contract | None = None
    start: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    released: bytes = b""
    progress: Progress = lambda step, fraction: None


@dataclass(frozen=True)
class Parts:
    """A run's sets after a snapshot was dealt out, as applications send them. `gate` are human labels that training
    never saw; `steps` are fitted to `train`."""

    train: Examples
    unlabelled: Examples
    calibration: Examples
    validation: Examples
    gate: Examples
    exam: Examples
    steps: FittedSteps = NO_FITTED_STEPS


def deal(sets: Sets, samples: Examples | None, *, seed: int, repeats: int) -> Parts:
    """Join the recipe's sets with a snapshot's samples (`checking.samples_of`).

    A quarter of the human labels is kept for the gate (and joins the validation set), a tenth for
    calibration; the rest is trained on `repeats` times. Samples that are nearly the same (`alike`) stay together.
    Samples without a label teach the student through the teacher alone.
    """
    none = sets.train.take(np.zeros(0, np.int64))
    if samples is None:
        return Parts(sets.train, none, sets.calibration, sets.validation, none, sets.exam)
    every = _unique(samples, of=sets)
    labelled = every.with_labels()
    order = np.random.default_rng(seed).permutation(len(labelled))
    kept, tuned = int(GATE_SHARE * len(order)), int(CALIBRATION_SHARE * len(order))
    gate, calibration, rest = map(labelled.take, alike.split(alike.groups(labelled), order, (kept, tuned)))
    train = sets.train
    for _ in range(repeats):
        train = train.join(rest)
    return Parts(
        train=train,
        unlabelled=every.take(np.flatnonzero(~every.labelled)),
        calibration=sets.calibration.join(calibration),
        validation=sets.validation.join(gate),
        gate=gate,
        exam=sets.exam,
    )


def _unique(samples: Examples, *, of: Sets) -> Examples:
    """Each input once, labelled ones first, without those that a held-out set holds already."""
    seen = {key for part in (of.calibration, of.validation, of.exam) for key in keys_of(part)}
    keys = keys_of(samples)
    rows: list[int] = []
    for row in np.argsort(~samples.labelled, kind="stable"):
        key = keys[row]
        if key not in seen:
            seen.add(key)
            rows.append(int(row))
    return samples.take(np.asarray(rows, np.int64))


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

    `share` of its weights may change where it starts from those of the release before; None: as the recipe says.
    """
    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    every = parts.train.join(parts.unlabelled)
    if recipe.fit is not None:
        return _own_fit(request, settled, every, parts.steps, teacher)
    assert recipe.student is not None  # a recipe has one of the two
    step = "training the student" if teacher is None else "distilling the student"
    warm = recipe.warm is not False
    free = hyper.warm_share if share is None else share
    plan = _Plan(
        "student", step, request.seed + 1, hyper.student_epochs, hyper.student_rate, warm, free, hyper.warm_epochs
    )
    return _fitted(request, settled, recipe.student, every, parts.steps, plan, teacher)


@dataclass(frozen=True)
class _Plan:
    """One network's fit: its name among the run's files, its step in words, and the numbers that are its own.

    `warm`: it starts from the weights of the release before, `share` of them may change, and `warm_epochs`, unless
    None, are its epochs then.
    """

    name: str
    step: str
    seed: int
    epochs: int
    rate: float
    warm: bool
    share: float = 1.0
    warm_epochs: int | None = None


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

    from cloud_hub.training.fitting import FitSettings, fit, gradients, load_weights, save_weights
    from cloud_hub.training.losses import Weights, loss_of
    from cloud_hub.training.parallel import share
    from cloud_hub.training.sparing import free_of, worth_of
    from model_compiler.build.adapting import original

    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    torch.manual_seed(plan.seed)
    data = steps.ready(raw)
    adapted = placed(make(), data, settled.outputs)
    warm = False
    if plan.warm and plan.name in request.start:
        start = request.start[plan.name]
        if not start and plan.name == "student":
            start = weights_in_file(request.released, adapted)
        why = load_weights(original(adapted.module), start)
        warm = not why
        print(f"{plan.name}: " + (f"it starts anew: {why}" if why else "warm start"), file=sys.stderr)
    soft_share = hyper.soft_share if teacher is not None else 0.0
    if warm and plan.warm_epochs is not None:
        plan = replace(plan, epochs=plan.warm_epochs)
    settings = FitSettings(
        plan.epochs, hyper.batch, plan.rate, hyper.weight_decay, plan.seed,
        checkpoint=request.out / "checkpoints" / f"{plan.name}{_mark(plan, warm)}.safetensors", augment=recipe.augment,
        tick=lambda share: request.progress(plan.step, share),
        loss=loss_of(settled.spec, recipe.loss, Weights(hyper.distill_temperature, soft_share)),
        hear=partial(_say_loss, plan), precision=hyper.precision, compiled=hyper.compiled,
    )  # fmt: skip
    network = adapted.raw if callable(recipe.loss) else adapted.module
    from_teacher = teacher.module if teacher is not None else None
    if warm and plan.share < 1:
        worth = worth_of(network, gradients(network, data, settings, from_teacher))
        settings = replace(settings, free=free_of(worth, plan.share) if worth else None)
    fit(network, data, settings, from_teacher)
    if share().first:
        save_weights(original(adapted.module), request.out / f"{plan.name}.safetensors")
    return Made(settled.outputs, module=adapted.module.cpu().eval(), steps=steps)


def _mark(plan: _Plan, warm: bool) -> str:
    """What tells a fit's checkpoints from those of another start and share."""
    return f"-{plan.share:.6f}" if warm and plan.share < 1 else ""


def _say_loss(plan: _Plan, epoch: int, loss: float) -> None:
    """Each epoch's loss, ten times or so, for whoever reads the job's log."""
    from cloud_hub.training.parallel import share

    if share().first and (epoch % max(plan.epochs // 10, 1) == 0 or epoch == plan.epochs):
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


def sets_of(request: RunRequest) -> Sets:
    """The recipe's own data, with two labels exchanged when the request says so."""
    sets = request.loaded.recipe.data()
    return sets if request.swap is None else swap_labels(sets, *request.swap)


def onnx_of(network: nn.Module, x: Array | Mapping[str, Array], outputs: Sequence[str] = ()) -> bytes:
    """The network as ONNX with a variable batch; `x` are its inputs by name, `outputs` the names of its outputs."""
    from model_compiler.build.onnx import export
    from model_compiler.inputs.sources import example_of

    if not isinstance(x, Mapping):
        return export(network, example_of(x), outputs=outputs)
    return export(network, tuple(map(example_of, x.values())), inputs=tuple(x), outputs=outputs)


def lineage_of(request: RunRequest) -> Lineage:
    """Where the run comes from."""
    from model_compiler.package.assembling import tool_versions

    loaded = request.loaded
    return Lineage(
        snapshot=request.snapshot.id if request.snapshot is not None else "",
        recipe=f"{loaded.name}@{loaded.sha256}",
        tools=tool_versions(),
        seed=request.seed,
        extra={"swapped_labels": list(request.swap)} if request.swap else {},
    )


def settle_run(request: RunRequest) -> Settled:
    """Check the recipe before anything is trained (`checking.settle`), and print what is worth knowing of its data."""
    from cloud_hub.training.parallel import share

    if request.loaded.recipe.fit is not None and share().count > 1:
        raise InvalidError(
            f"the recipe: torchrun started {share().count} processes, and its own fit knows nothing of the others",
            subject="recipe",
            hint="start it without torchrun: python -m cloud_hub train …; fit may use several GPUs itself",
        )
    settled = settle(request.loaded.recipe, sets_of(request), request.contract, request.out)
    for finding in settled.findings:
        print(f"data: {finding}", file=sys.stderr)
    return settled


def deal_run(request: RunRequest, settled: Settled) -> Parts:
    """Deal out the settled sets and the request's snapshot, and fit the recipe's steps to what is trained on, but
    vocabularies to the recipe's own rows.

    Raises InvalidError when the snapshot is of other inputs or labels than the recipe's data.
    """
    repeats = request.loaded.recipe.hyper.sample_repeats
    samples = samples_of(request.snapshot, settled.sets.train, settled.task) if request.snapshot is not None else None
    parts = deal(settled.sets, samples, seed=request.seed, repeats=repeats)
    if not settled.preparation:
        return parts
    declared = with_vocabularies(settled.preparation, settled.sets.train.inputs)
    steps = fitted(declared, parts.train.inputs)
    return replace(parts, steps=FittedSteps(msgspec.structs.replace(declared, steps=steps), settled.ready))


def onnx_of_made(made: Made, rows: Examples) -> bytes:
    """A model as ONNX with a variable batch, without its steps; `rows` are raw."""
    if made.onnx is not None:
        return made.onnx
    assert made.module is not None  # one of the two is given
    return onnx_of(made.module, made.steps.inputs(rows.take(slice(2)).inputs), made.outputs)


def run(request: RunRequest) -> dict[str, float]:
    """Train and write `out`: student.pt2 (or student.onnx), teacher.onnx where there is a teacher, calibration.npz,
    validation.npz, metrics.json, lineage.json and, where there are preprocessing steps, steps.json, and front.onnx or
    front.tflite for a front. Returns the metric of each on the exam; nothing where torchrun's first process writes."""
    settled = settle_run(request)
    parts = deal_run(request, settled)
    request.out.mkdir(parents=True, exist_ok=True)
    teacher = train_teacher(request, parts, settled)
    student = train_student(request, parts, settled, teacher)
    if not _writes():
        return {}
    request.progress("writing", 0.0)
    if teacher is not None:
        (request.out / "teacher.onnx").write_bytes(onnx_of_made(teacher, parts.train))
    _write_student(request.out, student, parts)
    _write_before(request.out, parts.steps.preparation)
    for name, part in (("calibration", parts.calibration), ("validation", parts.validation.with_labels())):
        data = make_dataset(part.inputs, part.y, name, non_finite=settled.loose, precise=True)
        save_dataset(request.out / f"{name}.npz", data)
    exam = parts.exam.with_labels()
    made = {"teacher": teacher, "student": student} if teacher is not None else {"student": student}
    found = {
        name: settled.metric.measure(model.answers(exam.inputs), exam.y)[0] if len(exam) else 0.0
        for name, model in made.items()
        if model is not None
    }
    (request.out / "metrics.json").write_text(json.dumps(found, indent=2) + "\n")
    (request.out / "lineage.json").write_bytes(msgspec.json.encode(lineage_of(request)))
    return found


def _writes() -> bool:
    """Whether this process writes the run's files: the first under torchrun."""
    from cloud_hub.training.parallel import share

    return share().first


def _write_before(out: Path, preparation: Preparation) -> None:
    """What `model-compiler compile` takes by `--preprocess` and, as `front.txt` says it, by `--front`."""
    if preparation.steps:
        (out / "steps.json").write_bytes(msgspec.json.encode(preparation.steps))
    if preparation.front is not None:
        ending = "onnx" if preparation.front.runtime == "onnx" else "tflite"
        (out / f"front.{ending}").write_bytes(preparation.front.data)
        (out / "front.txt").write_text(fronts.written(preparation.front, f"front.{ending}"))


def _write_student(out: Path, student: Made, parts: Parts) -> None:
    import torch

    from model_compiler.build.adapting import export_program

    if student.module is None:
        assert student.onnx is not None  # one of the two is given
        (out / "student.onnx").write_bytes(student.onnx)
        return
    rows = student.steps.inputs(parts.train.take(slice(2)).inputs)
    loose = tuple(rows)  # only their shapes and datatypes count
    two = make_dataset(rows, None, "training", non_finite=loose, precise=True)
    torch.export.save(export_program(student.module, two, student.outputs), out / "student.pt2")
