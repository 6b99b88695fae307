"""One training run: teacher, then student, then the files that the compiler takes from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cloud_hub.samples.dataset import Dataset
from cloud_hub.training.checking import Contract, Settled, placed, samples_of, settle
from cloud_hub.training.recipe import Examples, LoadedRecipe, Sets, swap_labels
from fleet.protocol.manifest import Lineage
from model_compiler.data import Array, make_dataset, save_dataset

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str, float], None]
GATE_SHARE, CALIBRATION_SHARE = 0.25, 0.1  # of a snapshot's human labels, kept out of training


@dataclass(frozen=True)
class RunRequest:
    """What to train. `progress(step, fraction)` may raise to stop the run.

    `contract` is what the applications of an existing model rely on: its names and classes outrank the recipe's.
    """

    loaded: LoadedRecipe
    out: Path
    seed: int = 0
    snapshot: Dataset | None = None
    swap: tuple[int, int] | None = None
    contract: Contract | None = None
    progress: Progress = lambda step, fraction: None


@dataclass(frozen=True)
class Parts:
    """A run's sets after a snapshot was dealt out. `gate` are human labels that training never saw.

    `outputs` are the names of the networks' outputs; empty for the networks' own.
    """

    train: Examples
    unlabelled: Examples
    calibration: Examples
    validation: Examples
    gate: Examples
    exam: Examples
    outputs: tuple[str, ...] = ()


def deal(sets: Sets, snapshot: Dataset | None, *, seed: int, repeats: int) -> Parts:
    """Join the recipe's sets with a snapshot's samples.

    A quarter of the human labels is kept for the gate (and joins the validation set), a tenth for
    calibration; the rest is trained on `repeats` times. Samples without a label teach the student
    through the teacher alone.

    Raises InvalidError when the snapshot is of other inputs than the recipe's data.
    """
    none = sets.train.take(np.zeros(0, np.int64))
    if snapshot is None:
        return Parts(sets.train, none, sets.calibration, sets.validation, none, sets.exam)
    every = _unique(samples_of(snapshot, sets.train), of=sets)
    labelled = every.take(np.flatnonzero(every.y >= 0))
    order = np.random.default_rng(seed).permutation(len(labelled))
    kept, tuned = int(GATE_SHARE * len(order)), int(CALIBRATION_SHARE * len(order))
    gate, calibration = labelled.take(order[:kept]), labelled.take(order[kept : kept + tuned])
    train = sets.train
    for _ in range(repeats):
        train = train.join(labelled.take(order[kept + tuned :]))
    return Parts(
        train=train,
        unlabelled=every.take(np.flatnonzero(every.y < 0)),
        calibration=sets.calibration.join(calibration),
        validation=sets.validation.join(gate),
        gate=gate,
        exam=sets.exam,
    )


def _unique(samples: Examples, *, of: Sets) -> Examples:
    """Each input once, labelled ones first, without those that a held-out set holds already."""
    seen = {key for part in (of.calibration, of.validation, of.exam) for key in _keys(part)}
    keys = _keys(samples)
    rows: list[int] = []
    for row in np.argsort(samples.y < 0, kind="stable"):
        key = keys[row]
        if key not in seen:
            seen.add(key)
            rows.append(int(row))
    return samples.take(np.asarray(rows, np.int64))


def _keys(examples: Examples) -> list[bytes]:
    """For every row the bytes of all its inputs."""
    arrays = [np.ascontiguousarray(array) for array in examples.inputs.values()]
    return [b"".join(array[row].tobytes() for array in arrays) for row in range(len(examples))]


def train_teacher(request: RunRequest, parts: Parts) -> nn.Module:
    """Train the recipe's teacher; goes on from its checkpoint in `out` when there is one."""
    import torch

    from cloud_hub.training.fitting import FitSettings, fit

    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    torch.manual_seed(request.seed)
    settings = FitSettings(
        hyper.teacher_epochs, hyper.batch, hyper.teacher_rate, hyper.weight_decay, request.seed,
        checkpoint=request.out / "checkpoints" / "teacher.safetensors", augment=recipe.augment,
        tick=lambda share: request.progress("training the teacher", share),
    )  # fmt: skip
    return fit(placed(recipe.teacher(), parts.train, parts.outputs), parts.train, settings)


def train_student(request: RunRequest, parts: Parts, teacher: nn.Module) -> nn.Module:
    """Distil the recipe's student from `teacher`."""
    import torch

    from cloud_hub.training.fitting import FitSettings, fit

    recipe, hyper = request.loaded.recipe, request.loaded.recipe.hyper
    torch.manual_seed(request.seed + 1)
    settings = FitSettings(
        hyper.student_epochs, hyper.batch, hyper.student_rate, hyper.weight_decay, request.seed + 1,
        checkpoint=request.out / "checkpoints" / "student.safetensors", augment=recipe.augment,
        temperature=hyper.distill_temperature, soft_share=hyper.soft_share,
        tick=lambda share: request.progress("distilling the student", share),
    )  # fmt: skip
    student = placed(recipe.student(), parts.train, parts.outputs)
    return fit(student, parts.train.join(parts.unlabelled), settings, teacher)


def sets_of(request: RunRequest) -> Sets:
    """The recipe's own data, with two labels exchanged when the request says so."""
    sets = request.loaded.recipe.data()
    return sets if request.swap is None else swap_labels(sets, *request.swap)


def onnx_of(network: nn.Module, x: Array | Mapping[str, Array], outputs: Sequence[str] = ()) -> bytes:
    """The network as ONNX with a variable batch; `x` are its inputs by name, `outputs` the names of its outputs."""
    from model_compiler.sources import example_of
    from model_compiler.variants.onnx import export

    if not isinstance(x, Mapping):
        return export(network, example_of(x), outputs=outputs)
    return export(network, tuple(map(example_of, x.values())), inputs=tuple(x), outputs=outputs)


def lineage_of(request: RunRequest) -> Lineage:
    """Where the run comes from."""
    from model_compiler.assembling import tool_versions

    loaded = request.loaded
    return Lineage(
        snapshot=request.snapshot.id if request.snapshot is not None else "",
        recipe=f"{loaded.name}@{loaded.sha256}",
        tools=tool_versions(),
        seed=request.seed,
        extra={"swapped_labels": list(request.swap)} if request.swap else {},
    )


def settle_run(request: RunRequest) -> Settled:
    """Check the recipe before anything is trained: see `checking.settle`."""
    return settle(request.loaded.recipe, sets_of(request), request.contract, request.out)


def deal_run(request: RunRequest, settled: Settled) -> Parts:
    """Deal out the settled sets and the request's snapshot."""
    repeats = request.loaded.recipe.hyper.sample_repeats
    parts = deal(settled.sets, request.snapshot, seed=request.seed, repeats=repeats)
    return replace(parts, outputs=settled.outputs)


def run(request: RunRequest) -> dict[str, float]:
    """Train both and write `out`: teacher.onnx, student.pt2, calibration.npz, validation.npz,
    metrics.json and lineage.json. Returns the metrics (accuracies on the exam, 0 to 1)."""
    import torch

    from cloud_hub.training.fitting import accuracy
    from model_compiler.adapting import export_program

    settled = settle_run(request)
    parts = deal_run(request, settled)
    request.out.mkdir(parents=True, exist_ok=True)
    teacher = train_teacher(request, parts)
    student = train_student(request, parts, teacher)
    request.progress("writing", 0.0)
    (request.out / "teacher.onnx").write_bytes(onnx_of(teacher, parts.train.inputs, settled.outputs))
    two = make_dataset(parts.train.take(slice(2)).inputs, None, "training")
    torch.export.save(export_program(student, two, settled.outputs), request.out / "student.pt2")
    for name, part in (("calibration", parts.calibration), ("validation", parts.validation)):
        save_dataset(request.out / f"{name}.npz", make_dataset(part.inputs, part.y, name))
    metrics = {"teacher": accuracy(teacher, parts.exam), "student": accuracy(student, parts.exam)}
    (request.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (request.out / "lineage.json").write_bytes(msgspec.json.encode(lineage_of(request)))
    return metrics
